"""Average precision and recall by the rules of COCO, from overlaps in pixels.

Source: ``COCOeval`` of pycocotools with its default parameters, to the last digit. A prediction, the surest first,
takes the free object of its category with the highest IoU; where none reaches the threshold it may land on what is
ignored (crowds, objects of another size), and counts neither way.

Shapes: A = 4 ranges of area, T = 10 IoU thresholds, R = 101 recalls, K categories, of one image D predictions and G
objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.00, 101)
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large
MAX_DETECTIONS = (1, 10, 100)

_NEEDED_IOU = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)


class Matches(NamedTuple):
    """One category of one image, predictions by falling score.

    Attributes:
        scores: float64 (D,), at most 100.
        matched: bool (A, T, D), whether a prediction has an object.
        ignored: bool (A, T, D), whether it does not count.
        num_true: int64 (A,), objects that count.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_true: np.ndarray


class Curves(NamedTuple):
    """Over a dataset; -1 where a category has no objects of that size.

    Attributes:
        precision: float64 (T, R, K, A), with at most 100 predictions of a category an image.
        recall: float64 (T, K, A, M) for the M of :data:`MAX_DETECTIONS`.
    """

    precision: np.ndarray
    recall: np.ndarray


def match(
    scores: np.ndarray, areas: np.ndarray, shared: np.ndarray, true_areas: np.ndarray, is_crowd: np.ndarray
) -> Matches:
    """Match predictions to objects of the same image and category.

    Args:
        scores: float64 (D,).
        areas: int64 (D,) pixels of the predictions.
        shared: int64 (D, G) pixels that a prediction and an object share.
        true_areas: int64 (G,) pixels of the objects.
        is_crowd: bool (G,).
    """
    order = np.argsort(-scores, kind="mergesort")[: MAX_DETECTIONS[-1]]
    scores, areas, shared = scores[order], areas[order], shared[order]
    is_ignored = is_crowd | _outside(true_areas)
    union = np.where(is_crowd, areas[:, None], areas[:, None] + true_areas - shared)
    iou = shared / np.maximum(union, 1)
    matched = np.zeros((len(AREA_RANGES), len(_NEEDED_IOU), len(scores)), dtype=bool)
    ignored = np.zeros_like(matched)
    is_free = np.ones((*matched.shape[:2], len(true_areas)), dtype=bool)
    for position in np.flatnonzero((iou >= _NEEDED_IOU[0]).any(axis=1)):
        candidates = np.flatnonzero(iou[position] >= _NEEDED_IOU[0])
        chosen = _choose(iou[position, candidates], is_free[..., candidates], is_ignored[:, candidates])
        area, threshold = (chosen >= 0).nonzero()
        taken = candidates[chosen[area, threshold]]
        matched[area, threshold, position] = True
        ignored[area, threshold, position] = is_ignored[area, taken]
        is_free[area, threshold, taken] = is_crowd[taken]
    ignored |= ~matched & _outside(areas)[:, None]
    return Matches(scores, matched, ignored, (~is_ignored).sum(axis=1))


def _choose(iou: np.ndarray, is_free: np.ndarray, is_ignored: np.ndarray) -> np.ndarray:
    """Position of the object that a prediction takes: int64 (A, T), -1 where none.

    Args:
        iou: float64 (C,) with C objects, at least the lowest threshold.
        is_free: bool (A, T, C).
        is_ignored: bool (A, C).
    """
    possible = np.where(is_free & (iou >= _NEEDED_IOU[:, None]), iou, -1.0)
    regular = np.where(is_ignored[:, None], -1.0, possible)
    possible = np.where((regular >= 0).any(axis=2, keepdims=True), regular, possible)
    last_highest = len(iou) - 1 - possible[..., ::-1].argmax(axis=2)
    return np.where((possible >= 0).any(axis=2), last_highest, -1)


def _outside(areas: np.ndarray) -> np.ndarray:
    """bool (A, len(areas)): smaller or larger than the range."""
    return (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])


def accumulate(per_category: Sequence[Sequence[Matches]]) -> Curves:
    """Curves of K categories from the matches of all images in which the category is or is predicted.

    The order of the images decides between predictions of equal score.
    """
    num_categories, num_areas = len(per_category), len(AREA_RANGES)
    precision = -np.ones((len(IOU_THRESHOLDS), len(RECALLS), num_categories, num_areas))
    recall = -np.ones((len(IOU_THRESHOLDS), num_categories, num_areas, len(MAX_DETECTIONS)))
    for category, images in enumerate(per_category):
        if not images:
            continue
        num_true = np.sum([image.num_true for image in images], axis=0)
        for column, limit in enumerate(MAX_DETECTIONS):
            scores = np.concatenate([image.scores[:limit] for image in images])
            order = np.argsort(-scores, kind="mergesort")
            matched, ignored = (
                np.concatenate([getattr(image, name)[..., :limit] for image in images], axis=2)[..., order]
                for name in ("matched", "ignored")
            )
            for area in np.flatnonzero(num_true):
                right = np.cumsum(matched[area] & ~ignored[area], axis=1).astype(np.float64)
                recall[:, category, area, column] = right[:, -1] / num_true[area] if len(scores) else 0
                if limit == MAX_DETECTIONS[-1]:
                    wrong = np.cumsum(~matched[area] & ~ignored[area], axis=1).astype(np.float64)
                    precision[:, :, category, area] = _precision(right, wrong, int(num_true[area]))
    return Curves(precision, recall)


def _precision(right: np.ndarray, wrong: np.ndarray, num_true: int) -> np.ndarray:
    """Highest precision at each recall or above, float64 (T, R), from the numbers of true and false positives among
    the first 1, 2, ... predictions (T, D)."""
    precision = right / (wrong + right + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)  # recalls that are never reached
    reached = [np.searchsorted(row, RECALLS, side="left") for row in right / num_true]
    return np.take_along_axis(envelope, np.array(reached), axis=1)


def mean(values: np.ndarray) -> float:
    """Mean of the values that are defined; NaN where there are none."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else float("nan")
