"""The boxes around masks: where a mask is not, nothing has to be computed.

Shapes: N masks, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch


class Box(NamedTuple):
    """Rows from top to bottom and columns from left to right, without the last ones."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Index of the box's pixels in (H, W)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: float, size: tuple[int, int]) -> Box:
        """Larger on each side by ``margin`` times its height and width, and cut to (H, W) ``size``."""
        down, across = margin * (self.bottom - self.top), margin * (self.right - self.left)
        return Box(
            max(self.top - math.floor(down), 0),
            min(self.bottom + math.floor(down), size[0]),
            max(self.left - math.floor(across), 0),
            min(self.right + math.floor(across), size[1]),
        )


def box_around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all; (0, 0, 0, 0) for none."""
    tops, bottoms, lefts, rights = tuple(zip(*boxes, strict=True)) or ((0,),) * 4
    return Box(min(tops), max(bottoms), min(lefts), max(rights))


def boxes_of_masks(mask_logits: torch.Tensor) -> list[Box]:
    """The box around each mask; (0, 0, 0, 0) for an empty one.

    Args:
        mask_logits: float (N, H, W), positive on a mask.
    """
    if not mask_logits.numel():
        return [Box(0, 0, 0, 0)] * len(mask_logits)
    # The highest value of a row takes a third of the time of a map of what is positive, and columns are few then.
    rows = _spans(mask_logits.amax(dim=2) > 0)
    present = torch.zeros_like(mask_logits[:, 0], dtype=torch.bool)
    for columns, logits, (top, bottom) in zip(present, mask_logits, rows, strict=True):
        if top < bottom:
            columns.copy_(logits[top:bottom].amax(dim=0) > 0)
    return [Box(*vertical, *horizontal) for vertical, horizontal in zip(rows, _spans(present), strict=True)]


def _spans(present: torch.Tensor) -> list[list[int]]:
    # Of bool (N, L), for each of N: the first, and the one after the last; both 0 where there is none.
    first = present.int().argmax(dim=1)
    after = present.shape[1] - present.flip(1).int().argmax(dim=1)
    return (torch.stack([first, after], dim=1) * present.any(dim=1, keepdim=True)).tolist()
