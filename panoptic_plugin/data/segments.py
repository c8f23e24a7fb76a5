"""Measures of the segments in a label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class SegmentShape:
    """Size and place of one segment: pixels, and [x, y, width, height] as COCO has boxes."""

    area: int
    bbox: list[int]


def measure_segments(ids: np.ndarray) -> dict[int, SegmentShape]:
    """Every value of a label map, 0 included, with its area and bounding box, in ascending order.

    Args:
        ids: int (H, W), values at least 0.
    """
    values, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    windows = ndimage.find_objects(inverse.reshape(ids.shape) + 1)
    return {
        int(value): SegmentShape(int(count), _bbox(window))
        for value, count, window in zip(values, counts, windows, strict=True)
    }


def _bbox(window: tuple[slice, slice]) -> list[int]:
    rows, columns = window
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
