"""Pixels that each predicted instance shares with each segment of the truth: what every instance metric needs.

Two ways to the same table: a panoptic map with scored segments is counted as a whole; masks, which may overlap each
other, are counted each within its bounding box.

Shapes: N predicted instances, V values of the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from panoptic_plugin.evaluation.runs import pixels_by_pair, pixels_by_value, shared_runs
from panoptic_plugin.structures import number_pixels


class Overlaps(NamedTuple):
    """Predicted instances and what they lie on.

    Attributes:
        values: int64 (V,), the values that occur in the truth, ascending.
        areas: int64 (V,), pixels of each value.
        categories: int64 (N,), contiguous categories of the predictions.
        scores: float64 (N,).
        shared: int64 (N, V), pixels of a prediction on a value; a row's sum is the area of the prediction.
    """

    values: np.ndarray
    areas: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    shared: np.ndarray


def instance_overlaps(truth: np.ndarray, output: Mapping[str, Any]) -> Overlaps:
    """Count the predicted instances of a model's output against a map of the truth.

    The instances are those of ``instances`` (pred_classes, scores, pred_masks (N, H, W)). Where ``segments_info``
    lists the same classes and scores in the same order, or there are no ``instances``, its things, the segments with a
    score, are counted on the map of ``panoptic_seg``, which is several times as fast.

    Args:
        truth: integers from 0 on (H, W), of a range for which tables may be made.
        output: a model's output dict.

    Raises:
        ValueError: masks or map are of another size than the truth.
    """
    segments = _scored_segments(output)
    instances = output.get("instances")
    if instances is not None:
        categories = _array(instances.pred_classes).astype(np.int64)
        scores = _array(instances.scores).astype(np.float64)
        if segments is None or not _agree(segments, categories, scores):
            return _of_masks(truth, categories, scores, _array(instances.pred_masks))
    if segments is None:
        segments = []
    ids = [segment["id"] for segment in segments]
    categories = np.array([segment["category_id"] for segment in segments], dtype=np.int64)
    scores = _single([segment["score"] for segment in segments])
    return _of_map(truth, categories, scores, _array(output["panoptic_seg"][0]) if ids else None, ids)


def _scored_segments(output: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    if "segments_info" not in output or "panoptic_seg" not in output:
        return None
    return [segment for segment in output["segments_info"] if segment.get("score") is not None]


def _agree(segments: list[Mapping[str, Any]], categories: np.ndarray, scores: np.ndarray) -> bool:
    return [segment["category_id"] for segment in segments] == categories.tolist() and np.array_equal(
        _single([segment["score"] for segment in segments]), scores
    )


def _single(scores: list[float]) -> np.ndarray:
    """Scores as ``Instances`` have them, rounded to float32, in float64."""
    return np.array(scores, dtype=np.float32).astype(np.float64)


def _of_map(
    truth: np.ndarray, categories: np.ndarray, scores: np.ndarray, ids: np.ndarray | None, listed: list[int]
) -> Overlaps:
    """Of segments ``listed`` of an id map (H, W); it is not needed where there are none."""
    if ids is not None and ids.shape != truth.shape:
        raise ValueError(f"the prediction has shape {ids.shape}, the ground truth {truth.shape}")
    (true, *predicted), lengths = shared_runs(truth, *([] if ids is None else [ids]))
    areas = pixels_by_value(true, lengths, 0)
    values = np.flatnonzero(areas)
    shared = np.zeros((1, len(values)), dtype=np.int64)
    if predicted:
        numbers = number_pixels(predicted[0], listed)
        columns = number_pixels(true, values.tolist()) - 1
        shared = pixels_by_pair(numbers, columns, lengths, (len(listed) + 1, len(values)))
    return Overlaps(values, areas[values], categories, scores, shared[1:])


def _of_masks(truth: np.ndarray, categories: np.ndarray, scores: np.ndarray, masks: np.ndarray) -> Overlaps:
    if masks.shape[1:] != truth.shape:
        raise ValueError(f"the masks have shape {masks.shape[1:]}, the ground truth {truth.shape}")
    alone = _of_map(truth, categories, scores, None, [])
    shared = np.zeros((len(masks), len(alone.values)), dtype=np.int64)
    numbers = (number_pixels(truth, alone.values.tolist()) - 1).reshape(-1)
    for row, mask in zip(shared, masks, strict=True):
        # Positions first: an index of booleans is ten times as slow where most of them are false.
        row[:] = np.bincount(numbers[np.flatnonzero(mask)], minlength=len(row))
    return alone._replace(shared=shared)


def _array(values: Any) -> np.ndarray:
    """A tensor of any device, or an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
