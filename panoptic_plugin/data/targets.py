"""Training targets, from a panoptic label map to what the losses compare with.

Shapes: H, W are the label's height and width. All targets have that size; coordinates are (y, x) in pixels.
The work of each segment is done inside its bounding box, and what depends on the segment alone is looked up in a
table, so the cost grows with the image and hardly with the number of segments.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from panoptic_plugin.registry import TARGET_GENERATOR_REGISTRY

Segments = Sequence[dict[str, Any]]


def index_segments(panoptic_ids: np.ndarray, segments_info: Segments) -> tuple[np.ndarray, dict[int, int]]:
    """Number the segments 1, 2, ... as tables and bounding boxes need them.

    Args:
        panoptic_ids: int (H, W), ids of the dataset's PNG, at least 0.
        segments_info: dicts with ``id``.

    Returns:
        int32 (H, W) holding each pixel's segment number, 0 where its id belongs to no segment; and id -> number.
    """
    numbers: dict[int, int] = {}
    for segment in segments_info:
        numbers.setdefault(int(segment["id"]), len(numbers) + 1)
    highest = max(int(panoptic_ids.max(initial=0)), max(numbers, default=0))
    table = np.zeros(highest + 1, dtype=np.int32)
    for segment_id, number in numbers.items():
        table[segment_id] = number
    return table[panoptic_ids], numbers


def semantic_target(
    numbered: np.ndarray,
    numbers: dict[int, int],
    segments_info: Segments,
    *,
    ignore_label: int,
    ignore_crowd: bool = False,
) -> np.ndarray:
    """Contiguous category of each pixel, int64 (H, W); ``ignore_label`` outside all segments (and in crowds)."""
    category = np.full(len(numbers) + 1, ignore_label, dtype=np.int64)
    for segment in segments_info:
        if not (ignore_crowd and segment["iscrowd"]):
            category[numbers[segment["id"]]] = segment["category_id"]
    return category[numbered]


class SemanticTargets:
    """Semantic segmentation alone: ``{"sem_seg": int64 (H, W)}``."""

    def __init__(self, *, ignore_label: int, ignore_crowd_in_semantic: bool = False):
        self.ignore_label = ignore_label
        self.ignore_crowd_in_semantic = ignore_crowd_in_semantic

    def __call__(self, panoptic_ids: np.ndarray, segments_info: Segments) -> dict[str, Any]:
        numbered, numbers = index_segments(panoptic_ids, segments_info)
        semantic = semantic_target(
            numbered,
            numbers,
            segments_info,
            ignore_label=self.ignore_label,
            ignore_crowd=self.ignore_crowd_in_semantic,
        )
        return {"sem_seg": torch.from_numpy(semantic)}


class PanopticDeepLabTargets:
    """Targets of Panoptic-DeepLab (https://arxiv.org/abs/1911.10194, section 3).

    The seven outputs equal those of Detectron2's ``PanopticDeepLabTargetGenerator`` bit by bit, with one difference:
    a crowd group is no object, so it gets no center, and no tail of its Gaussian reaches its neighbours.

    Args:
        ignore_label: the semantic label of pixels without a segment.
        thing_ids: contiguous ids of the thing categories.
        sigma: standard deviation of a center's Gaussian, in pixels.
        ignore_stuff_in_offset: the offset loss sees thing pixels only.
        small_instance_area: instances of fewer pixels are small.
        small_instance_weight: weight of small instances in the semantic loss (cut to an integer from 0 to 255).
        ignore_crowd_in_semantic: crowd groups get the ignore label.
    """

    def __init__(
        self,
        *,
        ignore_label: int,
        thing_ids: Collection[int],
        sigma: int = 8,
        ignore_stuff_in_offset: bool = False,
        small_instance_area: int = 0,
        small_instance_weight: int = 1,
        ignore_crowd_in_semantic: bool = False,
    ):
        self.ignore_label = ignore_label
        self.thing_ids = frozenset(thing_ids)
        self.sigma = sigma
        self.ignore_stuff_in_offset = ignore_stuff_in_offset
        self.small_instance_area = small_instance_area
        self.small_instance_weight = small_instance_weight
        self.ignore_crowd_in_semantic = ignore_crowd_in_semantic
        self._gaussian = _gaussian_patch(sigma)

    def __call__(self, panoptic_ids: np.ndarray, segments_info: Segments) -> dict[str, Any]:
        """Make the targets of one image.

        Args:
            panoptic_ids: int (H, W), ids of the dataset's PNG.
            segments_info: dicts with ``id``, ``category_id`` (contiguous) and ``iscrowd``.

        Returns:
            sem_seg int64 (H, W); center float32 (H, W), 1 at each center; center_points, a list of [y, x];
            offset float32 (2, H, W), from a pixel to its center, y first; sem_seg_weights float32 (H, W);
            center_weights and offset_weights float32 (1, H, W), 0 where the loss looks away.
        """
        numbered, numbers = index_segments(panoptic_ids, segments_info)
        semantic = semantic_target(
            numbered,
            numbers,
            segments_info,
            ignore_label=self.ignore_label,
            ignore_crowd=self.ignore_crowd_in_semantic,
        )
        center_seen, offset_seen = self._seen_by_losses(numbers, segments_info)
        height, width = numbered.shape
        semantic_weights = np.ones((height, width), dtype=np.float32)
        center = np.zeros((height, width), dtype=np.float32)
        offset = np.zeros((2, height, width), dtype=np.float32)
        center_points: list[list[float]] = []
        windows = ndimage.find_objects(numbered, max_label=len(numbers))
        for segment in segments_info:
            number = numbers[segment["id"]]
            window = windows[number - 1]
            if segment["category_id"] not in self.thing_ids or window is None:
                continue
            mask = numbered[window] == number
            area = int(np.count_nonzero(mask))
            if area < self.small_instance_area:
                semantic_weights[window][mask] = np.uint8(self.small_instance_weight)
            if segment["iscrowd"]:
                continue
            center_yx = _center_of_mass(mask, window, area)
            center_points.append(list(center_yx))
            self._draw_center(center, center_yx)
            _write_offset(offset, mask, window, center_yx)
        return {
            "sem_seg": torch.from_numpy(semantic),
            "center": torch.from_numpy(center),
            "center_points": center_points,
            "offset": torch.from_numpy(offset),
            "sem_seg_weights": torch.from_numpy(semantic_weights),
            "center_weights": torch.from_numpy(center_seen[numbered][None]),
            "offset_weights": torch.from_numpy(offset_seen[numbered][None]),
        }

    def _seen_by_losses(self, numbers: dict[int, int], segments_info: Segments) -> tuple[np.ndarray, np.ndarray]:
        """Two float32 tables over segment numbers: 1 where the center loss, the offset loss is taken."""
        center_seen = np.zeros(len(numbers) + 1, dtype=np.float32)
        offset_seen = np.zeros(len(numbers) + 1, dtype=np.float32)
        for segment in segments_info:
            if segment["iscrowd"]:
                continue
            center_seen[numbers[segment["id"]]] = 1
            if not self.ignore_stuff_in_offset or segment["category_id"] in self.thing_ids:
                offset_seen[numbers[segment["id"]]] = 1
        return center_seen, offset_seen

    def _draw_center(self, center: np.ndarray, center_yx: tuple[np.float64, np.float64]) -> None:
        """Lay one Gaussian over the heatmap (H, W), in place; where two overlap, the higher value stays."""
        reach = 3 * self.sigma + 1
        height, width = center.shape
        y, x = (round(coordinate) for coordinate in center_yx)
        top, bottom = max(0, y - reach), min(height, y + reach + 1)
        left, right = max(0, x - reach), min(width, x + reach + 1)
        patch = self._gaussian[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
        region = center[top:bottom, left:right]
        np.maximum(region, patch, out=region)


def _gaussian_patch(sigma: int) -> np.ndarray:
    """float32 (6 sigma + 3, 6 sigma + 3), 1 in the middle."""
    # In double precision first, as Detectron2 does: the rounding to float32 comes last in both.
    distance = np.arange(6 * sigma + 3, dtype=float) - (3 * sigma + 1)
    squared = distance[None, :] ** 2 + distance[:, None] ** 2
    return np.exp(-squared / (2 * sigma**2)).astype(np.float32)


def _center_of_mass(mask: np.ndarray, window: tuple[slice, slice], area: int) -> tuple[np.float64, np.float64]:
    """Mean (y, x) of the mask's pixels in the whole image; sums of integers, so it is exact before the division."""
    rows = np.count_nonzero(mask, axis=1)
    columns = np.count_nonzero(mask, axis=0)
    y_sum = np.dot(rows, np.arange(window[0].start, window[0].stop))
    x_sum = np.dot(columns, np.arange(window[1].start, window[1].stop))
    return np.float64(y_sum) / area, np.float64(x_sum) / area


def _write_offset(
    offset: np.ndarray, mask: np.ndarray, window: tuple[slice, slice], center_yx: tuple[np.float64, np.float64]
) -> None:
    """Way from each pixel of the mask to the center, into ``offset`` (2, H, W)."""
    # A float64 scalar minus a float32 array is rounded differently by NumPy 1 and 2. Detectron2 subtracts these
    # very types, so doing the same gives the same bits under either.
    y_way = center_yx[0] - np.arange(window[0].start, window[0].stop, dtype=np.float32)
    x_way = center_yx[1] - np.arange(window[1].start, window[1].stop, dtype=np.float32)
    np.copyto(offset[0][window], y_way[:, None], where=mask, casting="same_kind")
    np.copyto(offset[1][window], x_way[None, :], where=mask, casting="same_kind")


@TARGET_GENERATOR_REGISTRY.register()
def panoptic_deeplab(cfg, metadata) -> PanopticDeepLabTargets:
    """``INPUT.TARGET_GENERATOR: panoptic_deeplab``."""
    return PanopticDeepLabTargets(
        ignore_label=metadata.ignore_label,
        thing_ids=metadata.thing_dataset_id_to_contiguous_id.values(),
        sigma=cfg.INPUT.GAUSSIAN_SIGMA,
        ignore_stuff_in_offset=cfg.INPUT.IGNORE_STUFF_IN_OFFSET,
        small_instance_area=cfg.INPUT.SMALL_INSTANCE_AREA,
        small_instance_weight=cfg.INPUT.SMALL_INSTANCE_WEIGHT,
        ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC,
    )


@TARGET_GENERATOR_REGISTRY.register()
def semantic(cfg, metadata) -> SemanticTargets:
    """``INPUT.TARGET_GENERATOR: semantic``."""
    return SemanticTargets(
        ignore_label=metadata.ignore_label, ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC
    )
