"""Evaluation results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from panoptic_plugin.files import replace_file

SCHEMA_VERSION = 1
Results = Mapping[str, Mapping[str, float]]
# Columns of the table of classes, by the task they belong to.
PER_CLASS = {
    "panoptic_seg": ("PQ", "SQ", "RQ", "TP", "FP", "FN"),
    "sem_seg": ("IoU",),
    "segm": ("AP", "AP50"),
}
COUNTS = ("TP", "FP", "FN")  # in the JSON only: the table is wide enough
Qualities = Mapping[int, Mapping[str, float]]


def format_results(
    results: Results,
    class_names: Sequence[str],
    thing_ids: frozenset[int],
    num_categories: Mapping[str, int],
    qualities: Qualities,
) -> str:
    """Tables for the log: All/Things/Stuff, then mIoU and AP, then each class.

    Args:
        results: task -> name -> percent, as the evaluator returns them.
        class_names: by contiguous category id.
        thing_ids: contiguous ids of the things.
        num_categories: how many categories "All", "Things" and "Stuff" average over.
        qualities: see :func:`per_class`.
    """
    tables = []
    for task, title in (("panoptic_seg", ""), ("boundary_panoptic_seg", "Boundary")):
        if panoptic := results.get(task):
            rows = [
                [split, *(panoptic[name + suffix] for name in ("PQ", "SQ", "RQ")), num_categories.get(split, 0)]
                for split, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
            ]
            tables.append(_table(rows, [title, "PQ", "SQ", "RQ", "#categories"]))
    single = {
        name: value
        for task in ("sem_seg", "segm")
        for name, value in results.get(task, {}).items()
        if "-" not in name  # "IoU-road" belongs to the next table
    }
    if "boundary_sem_seg" in results:
        single["Boundary mIoU"] = results["boundary_sem_seg"]["mIoU"]
    if single:
        tables.append(_table([list(single.values())], list(single)))
    columns, classes = per_class(results, class_names, thing_ids, qualities)
    columns = [name for name in columns if name not in COUNTS]
    if len(columns) > 2:
        tables.append(_table([[row[column] for column in columns] for row in classes], columns))
    return "\n\n".join(tables)


def per_class(
    results: Results, class_names: Sequence[str], thing_ids: frozenset[int], qualities: Qualities
) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names, and one dict a class; None where a class has no such score.

    Args:
        qualities: category -> PQ, SQ, RQ, TP, FP, FN, see ``panoptic.class_qualities``.
    """
    columns = [(task, name) for task, names in PER_CLASS.items() if task in results for name in names]
    rows = [
        {
            "class": class_name,
            "kind": "thing" if category in thing_ids else "stuff",
            **{
                name: qualities.get(category, {}).get(name)
                if task == "panoptic_seg"
                else _finite(results[task].get(f"{name}-{class_name}"))
                for task, name in columns
            },
        }
        for category, class_name in enumerate(class_names)
    ]
    return ["class", "kind", *(name for _, name in columns)], rows


def write_results(
    path: Path,
    results: Results,
    class_names: Sequence[str],
    thing_ids: frozenset[int],
    qualities: Qualities,
    **about: Any,
) -> None:
    """Write results as JSON; a number that is not defined is null, never NaN.

    Args:
        path: the file; it is replaced at once, so a reader sees the old or the new content.
        qualities: see :func:`per_class`.
        about: further entries, for example the dataset's name.
    """
    _, rows = per_class(results, class_names, thing_ids, qualities)
    content = {
        "schema_version": SCHEMA_VERSION,
        **about,
        "results": {
            task: {name: _finite(value) for name, value in values.items() if "-" not in name}
            for task, values in results.items()
        },
        "per_class": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    align = ["left" if isinstance(cell, str) else "right" for cell in rows[0]]
    shown = [[_shown(cell) for cell in row] for row in rows]
    return tabulate(shown, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=align)


def _shown(cell: Any) -> str:
    if cell is None or isinstance(cell, float) and not math.isfinite(cell):
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
