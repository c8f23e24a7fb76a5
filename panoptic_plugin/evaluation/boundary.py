"""Quality of boundaries: Boundary IoU and Boundary PQ (Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562).

The boundary of a segment is its pixels within d of a pixel outside of it, or of the outside of the image; distances are
those of a chessboard, d is 2 % of the image's diagonal. Boundary IoU compares the boundaries of two segments instead
of their areas. Boundary PQ is PQ with the lower of both IoUs, so that neither thick nor thin objects are easy. True
void does not count, inside a boundary as elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.panoptic import (
    ImageQuality,
    PanopticQuality,
    check_size,
    predicted_ids,
    predicted_segments,
)
from panoptic_plugin.evaluation.runs import Runs, pixels_by_pair, shared_runs
from panoptic_plugin.evaluation.semantic import predicted_labels, true_categories

DILATION = 0.02
NOWHERE = -1  # what a map of boundaries holds inside of segments


def boundary_width(shape: Sequence[int], dilation: float = DILATION) -> int:
    """d in pixels, at least 1, of an image (height, width)."""
    return max(1, round(dilation * math.hypot(*shape)))


def near_boundary(ids: np.ndarray, width: int) -> np.ndarray:
    """Pixels within ``width`` of another id or of the outside: bool (H, W), from integers (H, W)."""
    height, columns = ids.shape
    inside = np.zeros((height, columns), dtype=np.uint8)
    if height > 2 and columns > 2:
        inside[1:-1, 1:-1] = 1
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - down), slice(max(0, -right), columns - max(0, right)))
        there = (slice(down, height), slice(max(0, right), columns + min(0, right)))
        same = ids[here] == ids[there]
        inside[here] &= same
        inside[there] &= same
    # The first pixels of another id are one step beyond the nearest pixel that has a neighbour of another id.
    return cv2.distanceTransform(inside, cv2.DIST_C, 3) <= width - 1 if ids.size else inside.astype(bool)


def boundary_runs(
    true_ids: np.ndarray, predicted_ids: np.ndarray, width: int, *, true_void: int = 0, nowhere: int = NOWHERE
) -> Runs:
    """The runs of two maps (H, W), from which everything but boundaries and true void is taken out.

    Args:
        true_ids, predicted_ids: integers (H, W).
        width: see :func:`boundary_width`.
        true_void: stays where it is.
        nowhere: what takes the place of the rest, no id of a segment.
    """
    kept = near_boundary(true_ids, width) | (true_ids == true_void)
    true = np.where(kept, true_ids.astype(np.int32), nowhere)
    predicted = np.where(near_boundary(predicted_ids, width), predicted_ids.astype(np.int32), nowhere)
    return shared_runs(true, predicted)


class BoundaryQuality(PanopticQuality):
    """Boundary PQ, SQ and RQ. Arguments are those of :class:`PanopticQuality`.

    Args:
        dilation: d as a share of the image's diagonal.
    """

    task = "boundary_panoptic_seg"

    def __init__(self, *, dilation: float = DILATION, **arguments: Any):
        super().__init__(**arguments)
        self._dilation = dilation

    def count(self, truth: Truth, output: Mapping[str, Any]) -> ImageQuality:
        ids = predicted_ids(output)
        check_size(truth, ids.shape)
        runs = shared_runs(truth.numbers, ids)
        segments = predicted_segments(output, runs.values[1], self._label_divisor, truth.image_id)
        width = boundary_width(truth.shape, self._dilation)
        matching = pq.match_runs(
            runs,
            truth.segments,
            segments,
            boundary=boundary_runs(truth.numbers, ids, width),
        )
        return ImageQuality(tuple(matching.counts(truth.segments, segments).items()))


class BoundaryIoU:
    """Boundary IoU of each class over all images, and its mean.

    Args:
        class_names: by contiguous category id.
        label_divisor: used where a model gives a panoptic map and no ``sem_seg``.
        dilation: d as a share of the image's diagonal.
    """

    task = "boundary_sem_seg"

    def __init__(self, *, class_names: Sequence[str], label_divisor: int = 1000, dilation: float = DILATION):
        self._class_names = list(class_names)
        self._label_divisor = label_divisor
        self._dilation = dilation

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
        """(category, pixels of both boundaries, of either) of each category that has one."""
        labels = predicted_labels(output, self._label_divisor)
        check_size(truth, labels.shape)
        num_classes = len(self._class_names)
        true, category_of = true_categories(truth, num_classes)
        true = true.astype(np.int32) if category_of is None else category_of[true]
        void = num_classes + 1
        true = np.where((true < 0) | (true >= num_classes), void, true)
        runs = boundary_runs(
            true,
            labels,
            boundary_width(truth.shape, self._dilation),
            true_void=void,
            nowhere=num_classes,
        )
        rows, columns = runs.values
        columns = np.where((columns < 0) | (columns >= num_classes), num_classes, columns)
        cells = pixels_by_pair(rows, columns, runs.lengths, (void + 1, num_classes + 1))[:void]
        both = cells.diagonal()[:num_classes]
        either = cells.sum(axis=1)[:num_classes] + cells.sum(axis=0)[:num_classes] - both
        return tuple((int(one), int(both[one]), int(either[one])) for one in np.flatnonzero(either))

    def summarize(self, records: Sequence[tuple[tuple[int, int, int], ...]]) -> dict[str, float]:
        totals = np.zeros((len(self._class_names), 2), dtype=np.int64)
        for record in records:
            for category, *pixels in record:
                totals[category] += pixels
        occurring = np.flatnonzero(totals[:, 1]).tolist()
        per_class = {self._class_names[one]: 100 * float(totals[one, 0] / totals[one, 1]) for one in occurring}
        mean = sum(per_class.values()) / len(per_class) if per_class else float("nan")
        return {"mIoU": mean, **{f"IoU-{name}": value for name, value in per_class.items()}}
