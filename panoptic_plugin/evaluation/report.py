"""Evaluation results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

SCHEMA_VERSION = 1
Results = Mapping[str, Mapping[str, float]]
PER_CLASS = (("panoptic_seg", "PQ"), ("sem_seg", "IoU"), ("segm", "AP"), ("segm", "AP50"))


def format_results(
    results: Results, class_names: Sequence[str], thing_ids: frozenset[int], num_categories: Mapping[str, int]
) -> str:
    """Tables for the log: All/Things/Stuff, then mIoU and AP, then each class.

    Args:
        results: task -> name -> percent, as the evaluator returns them.
        class_names: by contiguous category id.
        thing_ids: contiguous ids of the things.
        num_categories: how many categories "All", "Things" and "Stuff" average over.
    """
    tables = []
    if "panoptic_seg" in results:
        panoptic = results["panoptic_seg"]
        rows = [
            [split, *(panoptic[name + suffix] for name in ("PQ", "SQ", "RQ")), num_categories.get(split, 0)]
            for split, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
        ]
        tables.append(_table(rows, ["", "PQ", "SQ", "RQ", "#categories"]))
    single = {
        name: value
        for task in ("sem_seg", "segm")
        for name, value in results.get(task, {}).items()
        if "-" not in name  # "IoU-road" belongs to the next table
    }
    if single:
        tables.append(_table([list(single.values())], list(single)))
    columns, rows = per_class(results, class_names, thing_ids)
    if len(columns) > 2:
        tables.append(_table([[row[column] for column in columns] for row in rows], columns))
    return "\n\n".join(tables)


def per_class(
    results: Results, class_names: Sequence[str], thing_ids: frozenset[int]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names, and one dict a class; None where a class has no such score."""
    metrics = [
        (task, name) for task, name in PER_CLASS if any(key.startswith(f"{name}-") for key in results.get(task, {}))
    ]
    rows = [
        {
            "class": class_name,
            "kind": "thing" if category in thing_ids else "stuff",
            **{name: _finite(results[task].get(f"{name}-{class_name}")) for task, name in metrics},
        }
        for category, class_name in enumerate(class_names)
    ]
    return ["class", "kind", *(name for _, name in metrics)], rows


def write_results(
    path: Path, results: Results, class_names: Sequence[str], thing_ids: frozenset[int], **about: Any
) -> None:
    """Write results as JSON; a number that is not defined is null, never NaN.

    Args:
        path: the file; it is replaced at once, so a reader sees the old or the new content.
        about: further entries, for example the dataset's name.
    """
    columns, rows = per_class(results, class_names, thing_ids)
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


def replace_file(path: Path, text: str) -> None:
    """Write a whole text file or leave the old one as it is."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes the file private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
