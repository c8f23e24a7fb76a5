"""Average precision by the rules of Cityscapes, for one class at one overlap.

Source: ``evalInstanceLevelSemanticLabeling`` of cityscapesscripts, to the last digit:

* a prediction matches the object of its class with which its IoU exceeds the threshold; of several that match one
  object the surest is right and the others are false;
* a prediction without a match is forgiven where more than the threshold's share of it lies on void, on groups of its
  class or on its objects of less than 100 pixels; such objects need not be found;
* the curve of precision over recall has one point for each distinct score and is integrated by mean steps.

Shapes: G true objects and groups, P predictions, S pairs that share pixels, of all images together and of one class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

OVERLAPS = np.arange(0.5, 1.0, 0.05)
FIRST_INSTANCE_ID = 1000  # below, an id is the label of stuff or of a group of objects
MIN_PIXELS = 100


class ClassRecord(NamedTuple):
    """One class over all images.

    Attributes:
        true_areas: int64 (G,) pixels of the objects and groups.
        is_group: bool (G,).
        scores: float64 (P,).
        areas: int64 (P,) pixels of the predictions, none of them 0.
        void: int64 (P,) their pixels on void.
        pairs: int64 (S, 3): position of the prediction, position of the object, pixels shared.
    """

    true_areas: np.ndarray
    is_group: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    void: np.ndarray
    pairs: np.ndarray


def class_precision(record: ClassRecord) -> np.ndarray:
    """AP of a class at each of :data:`OVERLAPS`, float64 (10,), from 0 to 1; NaN where it has no objects."""
    is_small = record.true_areas < MIN_PIXELS
    counted = ~is_small & ~record.is_group
    if not counted.any():
        return np.full(len(OVERLAPS), np.nan)
    predicted, true, shared = record.pairs.T
    iou = shared / (record.true_areas[true] + record.areas[predicted] - shared)
    # A small group counts twice in the original.
    on_ignored = shared * (is_small.astype(np.int64) + record.is_group)[true]
    forgiven = record.void + np.bincount(predicted, weights=on_ignored, minlength=len(record.areas))
    forgiven_share = forgiven / record.areas

    precision = np.zeros(len(OVERLAPS))
    for position, overlap in enumerate(OVERLAPS):
        matches = iou > overlap
        has_match = np.zeros(len(record.areas), dtype=bool)
        has_match[predicted[matches]] = True
        right, doubled = _surest(true, record.scores[predicted], matches & counted[true])
        wrong = np.concatenate([doubled, record.scores[~has_match & (forgiven_share <= overlap)]])
        precision[position] = average_precision(right, wrong, int(counted.sum()) - len(right))
    return precision


def _surest(objects: np.ndarray, scores: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the chosen pairs, the highest score of each object, and all others."""
    objects, scores = objects[chosen], scores[chosen]
    order = np.lexsort((-scores, objects))
    objects, scores = objects[order], scores[order]
    is_first = np.append(True, objects[1:] != objects[:-1])[: len(objects)]
    return scores[is_first], scores[~is_first]


def average_precision(right: np.ndarray, wrong: np.ndarray, num_missed: int) -> float:
    """Area under the curve of precision over recall; 0 where there are no predictions.

    Args:
        right, wrong: float64, the scores of true and of false positives.
        num_missed: objects that no prediction matches, whatever its score.
    """
    scores = np.concatenate([right, wrong])
    if not len(scores):
        return 0.0
    order = np.argsort(scores)
    is_right = (order < len(right)).astype(np.float64)
    _, starts = np.unique(scores[order], return_index=True)
    right_below = np.append(0.0, np.cumsum(is_right))[starts]
    tp = len(right) - right_below
    fp = len(scores) - starts - tp
    fn = right_below + num_missed
    precision = np.append(tp / (tp + fp), 1.0)
    recall = np.append(tp / (tp + fn), 0.0)
    # The sums of the original, because their order decides the last digit.
    steps = np.convolve(np.concatenate([recall[:1], recall, [0.0]]), [-0.5, 0, 0.5], "valid")
    return float(np.dot(precision, steps))
