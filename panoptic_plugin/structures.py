"""What a panoptic segmentation is, and the codes it is written in.

A panoptic map gives each pixel one id. In memory ``id = category_id * label_divisor + instance_id`` with
``instance_id = 0`` for stuff, 1, 2, ... for things, and -1 for void. On disk (COCO panoptic format) an id is an RGB
colour, ``R + 256 G + 65536 B``, and 0 is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

VOID = -1


def encode_ids(category_ids: np.ndarray, instance_ids: np.ndarray, label_divisor: int) -> np.ndarray:
    """Categories and instances to panoptic ids.

    Args:
        category_ids: int array of any shape, contiguous category ids; negative is void.
        instance_ids: int array of the same shape, 0 for stuff, below ``label_divisor``.
        label_divisor: how many instances a category may have, at most 1000 in the usual datasets.

    Returns:
        int32 array of that shape, :data:`VOID` where the category is negative.

    Raises:
        ValueError: an instance id that does not fit below the divisor would turn into another category.
    """
    if instance_ids.size and not 0 <= int(instance_ids.min()) <= int(instance_ids.max()) < label_divisor:
        raise ValueError(
            f"instance ids from {int(instance_ids.min())} to {int(instance_ids.max())} found, "
            f"expected 0 to {label_divisor - 1}; raise label_divisor"
        )
    ids = category_ids.astype(np.int32) * label_divisor + instance_ids.astype(np.int32)
    return np.where(category_ids < 0, VOID, ids).astype(np.int32)


def decode_ids(panoptic_ids: np.ndarray, label_divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """Panoptic ids to (category_ids, instance_ids), both int32 of the same shape; void becomes (-1, 0)."""
    ids = panoptic_ids.astype(np.int32)
    void = ids < 0
    return np.where(void, VOID, ids // label_divisor), np.where(void, 0, ids % label_divisor)


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Ids of COCO's panoptic PNG to colours.

    Args:
        ids: int array (H, W), values 0 to 2**24 - 1.

    Returns:
        uint8 array (H, W, 3) in RGB order.

    Raises:
        ValueError: an id does not fit into three bytes.
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < 1 << 24:
        raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())} found, expected 0 to {(1 << 24) - 1}")
    low_bytes = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8)
    return low_bytes.reshape(*ids.shape, 4)[..., :3].copy()


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Colours of COCO's panoptic PNG, uint8 (H, W, 3) in RGB order, to int32 ids (H, W)."""
    channels = rgb.astype(np.int32)
    return channels[..., 0] + (channels[..., 1] << 8) + (channels[..., 2] << 16)


def number_pixels(
    ids: np.ndarray, segment_ids: Sequence[int], last: int | None = None, dtype: DTypeLike = np.intp
) -> np.ndarray:
    """Each pixel's position in ``segment_ids``, from 1; 0 for other ids.

    Args:
        ids: int (H, W), any values below 2**24 or so: a table of their range is looked up.
        segment_ids: N ids.
        last: an id that gets the number N + 1 unless it is one of ``segment_ids``.
        dtype: of the result; it must hold N + 1.

    Returns:
        (H, W) of ``dtype``.
    """
    if not ids.size:
        return np.zeros(ids.shape, dtype=dtype)
    lowest, highest = min(int(ids.min()), 0), int(ids.max())
    # np.zeros hands out untouched pages, so a range of 16 million ids costs only the few that are looked up.
    # A negative id counts from the end of the table, as an index does.
    table = np.zeros(max(highest, -1) + 1 - lowest, dtype=dtype)
    if last is not None and lowest <= last <= highest:
        table[last] = len(segment_ids) + 1
    for number, segment_id in enumerate(segment_ids, start=1):
        if lowest <= segment_id <= highest:
            table[segment_id] = number
    return np.take(table, ids)


@dataclass
class PanopticResult:
    """One image's panoptic segmentation.

    Attributes:
        ids: int32 (H, W), ``category_id * label_divisor + instance_id``, void -1.
        segments: one dict a segment: id, category_id, isthing, area (pixels), score (None for stuff).
        label_divisor: see ``ids``.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]] = field(default_factory=list)
    label_divisor: int = 1000

    @property
    def semantic(self) -> np.ndarray:
        """int32 (H, W) contiguous category ids, void -1."""
        return decode_ids(self.ids, self.label_divisor)[0]
