"""Which true segments of an image were found, and by what: the counts of PQ with the segments kept apart.

The rules are those of :mod:`panoptic_plugin.evaluation.pq`. Shapes: T true and P predicted segments, maps (H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.pq import Counts
from panoptic_plugin.structures import number_pixels

SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, 1 << 62))  # pixels, COCO's limits


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
        true_areas, predicted_areas: pixels by number.
    """

    truth: Truth
    numbers: np.ndarray
    predicted: list[dict[str, Any]]
    pairs: list[tuple[int, int, float]]
    missed: list[int]
    false: list[int]
    true_areas: np.ndarray
    predicted_areas: np.ndarray

    def segments(self) -> list[tuple[str, int, int, float]]:
        """(kind, category, area, IoU) of each; kind is "match", "missed" or "false". Areas are the true ones, of
        false segments the predicted ones."""
        true = {segment["id"]: segment["category_id"] for segment in self.truth.segments}
        found = [("match", true[one], int(self.true_areas[one]), iou) for one, _, iou in self.pairs]
        missed = [("missed", true[one], int(self.true_areas[one]), 0.0) for one in self.missed]
        false = [
            ("false", self.predicted[one - 1]["category_id"], int(self.predicted_areas[one]), 0.0) for one in self.false
        ]
        return found + missed + false


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
    shared = np.bincount((truth.numbers * shape[1] + numbers).ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    pairs = _pairs(shared, truth.segments, predicted)
    matched_true, matched_predicted = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    missed = [s["id"] for s in truth.segments if not s["iscrowd"] and s["id"] not in matched_true]
    false = [
        segment["id"]
        for segment in predicted
        if segment["id"] not in matched_predicted and not _is_forgiven(shared, truth.segments, segment)
    ]
    return Match(truth, numbers, predicted, pairs, sorted(missed), false, shared.sum(axis=1), shared.sum(axis=0))


def _pairs(
    shared: np.ndarray, true: Sequence[Mapping[str, Any]], predicted: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int, float]]:
    true_areas, predicted_areas = shared.sum(axis=1), shared.sum(axis=0)
    by_number = {segment["id"]: segment for segment in true}
    pairs = []
    for row, column in np.argwhere(shared[1:, 1:]) + 1:
        segment = by_number[row]
        if segment["iscrowd"] or segment["category_id"] != predicted[column - 1]["category_id"]:
            continue
        inner = int(shared[row, column])
        iou = inner / int(true_areas[row] + predicted_areas[column] - inner - shared[0, column])
        if iou > 0.5:
            pairs.append((int(row), int(column), iou))
    return pairs


def _is_forgiven(shared: np.ndarray, true: Sequence[Mapping[str, Any]], segment: Mapping[str, Any]) -> bool:
    """Mostly on void or on its category's crowd, or without a pixel."""
    column = shared[:, segment["id"]]
    crowds = [one["id"] for one in true if one["iscrowd"] and one["category_id"] == segment["category_id"]]
    area = int(column.sum())
    return not area or (int(column[0]) + (int(column[crowds[-1]]) if crowds else 0)) / area > 0.5


def count_segments(
    segments: Sequence[tuple[str, int, int, float]], least: int = 0, limit: int = 1 << 62
) -> dict[int, Counts]:
    """PQ's counts by category of those segments of :meth:`Match.segments` whose area is in [least, limit)."""
    counts: dict[int, Counts] = {}
    for kind, category, area, iou in segments:
        if least <= area < limit:
            ious, fp, fn = counts.get(category, Counts())
            counts[category] = Counts(
                (*ious, iou) if kind == "match" else ious, fp + (kind == "false"), fn + (kind == "missed")
            )
    return counts
