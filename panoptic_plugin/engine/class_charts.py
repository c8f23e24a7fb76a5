"""Charts of the classes' scores after each evaluation, for TensorBoard and Weights & Biases.

They are made of what the evaluation of any system writes, ``metrics.json`` of each dataset, so that an evaluation costs
nothing more but the drawing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.events import EventStorage

from panoptic_plugin.evaluation.build import results_folder
from panoptic_plugin.visualization.class_chart import class_chart

logger = logging.getLogger(__name__)

# What is drawn: the first of these of which the classes have scores.
CHARTS = (("PQ", "SQ", "RQ"), ("IoU",), ("AP", "AP50"))
SPLITS = (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
PICTURE = "classes"


@dataclass(frozen=True)
class ClassTable:
    """Scores of all classes after one evaluation, on their way to a writer that shows tables.

    Attributes:
        name: of the chart.
        iteration: of the training.
        columns: "class", "kind" and the scores.
        rows: a list a class; None where it has no such score.
        scores: the columns that are worth a chart.
    """

    name: str
    iteration: int
    columns: list[str]
    rows: list[list[Any]]
    scores: tuple[str, ...]


class ClassCharts:
    """Draws the scores of the last evaluation; a chart that cannot be made is a warning, and the last that is tried.

    Args:
        files: name of a picture -> the ``metrics.json`` it is made of.

    Attributes:
        tables: not yet taken by a writer; None where there is none that would take them.
    """

    def __init__(self, files: Mapping[str, Path], *, with_tables: bool = False) -> None:
        self._files = dict(files)
        self._seen = {name: _written(path) for name, path in self._files.items()}
        self._failed = not files
        self.tables: list[ClassTable] | None = [] if with_tables else None

    def draw(self, storage: EventStorage) -> None:
        """Put a picture a dataset into the storage, of those that were evaluated since the last time."""
        if self._failed:
            return
        try:
            for name, path in self._files.items():
                before, self._seen[name] = self._seen[name], _written(path)
                if self._seen[name] != before:
                    self._draw(storage, name, json.loads(path.read_text(encoding="utf-8")))
        except Exception as reason:  # matplotlib is missing, or somebody else writes these files: no end of a training
            self._failed = True
            logger.warning("No more charts of the classes: %s: %s", type(reason).__name__, reason)

    def _draw(self, storage: EventStorage, name: str, content: Mapping[str, Any]) -> None:
        rows = content["per_class"]
        scores = next((one for one in CHARTS if any(row.get(one[0]) is not None for row in rows)), None)
        if scores is None:
            return
        shown = [*_averages(content["results"].get("panoptic_seg", {})), *rows] if "PQ" in scores else rows
        picture = class_chart(f"{content.get('dataset', name)}, iteration {storage.iter}", shown, scores)
        storage.put_image(name, np.ascontiguousarray(picture.transpose(2, 0, 1)))
        if self.tables is not None:
            columns = list(rows[0])
            values = [[row.get(column) for column in columns] for row in rows]
            self.tables.append(ClassTable(name, storage.iter, columns, values, scores))


def _averages(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of all classes, things and stuff."""
    return [
        {"class": split, "kind": "", **{score: results.get(f"{score}{suffix}") for score in CHARTS[0]}}
        for split, suffix in SPLITS
    ]


def _written(path: Path) -> int | None:
    """When the file was written last; None where it is not there."""
    return path.stat().st_mtime_ns if path.is_file() else None


def build_class_charts(cfg, *, is_main: bool) -> ClassCharts:
    """The charts of ``DATASETS.TEST`` on the main process; none where TEST.CLASS_CHARTS is False."""
    names = cfg.DATASETS.TEST if cfg.TEST.CLASS_CHARTS and is_main else ()
    pictures = {name: f"{PICTURE}/{name}" if len(names) > 1 else PICTURE for name in names}
    files = {picture: results_folder(cfg, name) / "metrics.json" for name, picture in pictures.items()}
    return ClassCharts(files, with_tables=cfg.WANDB.ENABLED)
