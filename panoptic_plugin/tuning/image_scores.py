"""What each image contributes to the objective, kept of finalists so that images can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_plugin.evaluation.evaluator import Evaluated
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels, make_instance_metric
from panoptic_plugin.files import read_json, replace_file
from panoptic_plugin.tuning.statistics import ImageScores, PanopticScores

# AP is not a sum over images: each resample is matched and sorted anew.
AP_RESAMPLES = 200


@dataclass(frozen=True)
class ImageRecords:
    """The records of an evaluation.

    Attributes:
        counts: by image, (category, sum of IoUs, TP, FP, FN) of each category that occurs.
        instances: by image, the record of the AP metric; empty without AP.
    """

    counts: Sequence[Sequence[tuple[int, float, int, int, int]]]
    instances: Sequence[Any]

    @classmethod
    def of(cls, evaluated: Evaluated) -> ImageRecords:
        counts = [
            [(category, float(sum(one.ious)), len(one.ious), one.fp, one.fn) for category, one in record.counts]
            for record in evaluated.records["panoptic_seg"]
        ]
        return cls(counts, list(evaluated.records.get("segm", ())))

    def table(self, num_classes: int) -> np.ndarray:
        """float (I, C, 4) of :class:`PanopticScores`."""
        table = np.zeros((len(self.counts), num_classes, 4))
        for image, found in enumerate(self.counts):
            for category, *numbers in found:
                table[image, category] = numbers
        return table


class QualityAndPrecision:
    """0.5 PQ + 0.5 AP of any choice of images."""

    def __init__(self, quality: PanopticScores, metric: Any, records: Sequence[Any]) -> None:
        self._quality, self._metric, self._records = quality, metric, records
        self.num_images = quality.num_images

    def score(self, times: np.ndarray) -> np.ndarray:
        some = times[:AP_RESAMPLES]
        precision = [self._precision(row) for row in some.tolist()]
        # The first resamples stand for all: repeated, they have the same percentiles.
        return np.resize(0.5 * self._quality.score(some) + 0.5 * np.nan_to_num(precision), len(times))

    def _precision(self, times: Sequence[int]) -> float:
        drawn = [record for record, number in zip(self._records, times, strict=True) for _ in range(number)]
        return float(self._metric.summarize(drawn)["AP"])


def write_images(path: Path, records: ImageRecords) -> None:
    """As JSON."""
    replace_file(path, json.dumps({"counts": records.counts, "instances": records.instances}))


def read_images(path: Path, labels: PanopticLabels, objective: str) -> ImageScores:
    """Scores of what :func:`write_images` wrote, for "PQ" or "PQ_AP"."""
    content: Mapping[str, Any] = read_json(path, what="scores by image")
    records = ImageRecords(content["counts"], _tuples(content["instances"]))
    quality = PanopticScores(records.table(len(labels.class_names)))
    if objective == "PQ":
        return quality
    return QualityAndPrecision(quality, make_instance_metric(labels), records.instances)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
