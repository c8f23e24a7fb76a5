"""Which true segments of an image were found, and by what: the counts of PQ with the segments kept apart.

Shapes: T true and P predicted segments, maps (H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.pq import Counts, match_runs
from panoptic_plugin.evaluation.runs import pixels_by_pair, shared_runs
from panoptic_plugin.structures import number_pixels

SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, 1 << 62))  # pixels, COCO's limits

Segment = tuple[str, int, int, float]  # kind, category, area in pixels, IoU


@dataclass(frozen=True)
class Match:
    """One image's true and predicted segments.

    Attributes:
        truth: the ground truth.
        numbers: intp (H, W), the predicted segment of a pixel, counted from 1; 0 is void.
        predicted: dicts with id (the number) and category_id.
        pairs: (true number, predicted number, IoU) of the matches.
        missed: numbers of true segments without a match, crowds left out.
        false: numbers of predicted segments without a match, forgiven ones left out.
        shared: int64 (T + 1, P + 1), pixels by true and predicted number.
    """

    truth: Truth
    numbers: np.ndarray
    predicted: list[dict[str, Any]]
    pairs: list[tuple[int, int, float]]
    missed: list[int]
    false: list[int]
    shared: np.ndarray

    def segments(self) -> list[Segment]:
        """(kind, category, area, IoU) of each; kind is "match", "missed" or "false". Areas are the true ones, of
        false segments the predicted ones."""
        true = {segment["id"]: segment["category_id"] for segment in self.truth.segments}
        true_areas, predicted_areas = self.shared.sum(axis=1), self.shared.sum(axis=0)
        found = [("match", true[one], int(true_areas[one]), iou) for one, _, iou in self.pairs]
        missed = [("missed", true[one], int(true_areas[one]), 0.0) for one in self.missed]
        false = [
            ("false", self.predicted[one - 1]["category_id"], int(predicted_areas[one]), 0.0) for one in self.false
        ]
        return found + missed + false

    def confusion(self, num_classes: int) -> np.ndarray:
        """int64 (C + 1, C + 1) pixels by true and predicted class; the last row is void, the last column "none"."""
        rows = [num_classes, *(0 for _ in self.truth.segments)]
        for segment in self.truth.segments:
            rows[segment["id"]] = segment["category_id"]
        columns = [num_classes, *(segment["category_id"] for segment in self.predicted)]
        pixels = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
        np.add.at(pixels, np.ix_(rows, columns), self.shared)
        return pixels


def match_image(truth: Truth, ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> Match:
    """Match the predicted segments of one image with the true ones.

    Args:
        truth: the ground truth.
        ids: int (H, W), any ids; those of no segment are void.
        segments: predicted; dicts with id and category_id (contiguous).

    Raises:
        ValueError: the prediction is of another size than the truth.
    """
    if ids.shape != truth.numbers.shape:
        raise ValueError(f"the prediction has shape {ids.shape}, the ground truth {truth.numbers.shape}")
    numbers = number_pixels(ids, [int(segment["id"]) for segment in segments])
    predicted = [{"id": n, "category_id": int(one["category_id"])} for n, one in enumerate(segments, start=1)]
    shape = (len(truth.segments) + 1, len(predicted) + 1)
    runs = shared_runs(truth.numbers, numbers)
    shared = pixels_by_pair(runs.values[0], runs.values[1], runs.lengths, shape)
    found = match_runs(runs, truth.segments, predicted)
    return Match(truth, numbers, predicted, list(found.pairs), list(found.missed), list(found.false), shared)


def count_segments(segments: Sequence[Segment], least: int = 0, limit: int = 1 << 62) -> dict[int, Counts]:
    """PQ's counts by category of those segments of :meth:`Match.segments` whose area is in [least, limit)."""
    counts: dict[int, Counts] = {}
    for kind, category, area, iou in segments:
        if least <= area < limit:
            ious, fp, fn = counts.get(category, Counts())
            counts[category] = Counts(
                (*ious, iou) if kind == "match" else ious, fp + (kind == "false"), fn + (kind == "missed")
            )
    return counts
