"""Probabilities of masks at a network's stride to masks in the size of the result, each in its box only.

Shapes: N masks, h x w cells of the padded network input at its stride, H x W pixels of the result.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_plugin.postprocessing.mask_boxes import boxes_of_masks

# Cells on each side of a pixel's own that its value depends on, at most: two bilinear steps mix three neighbours.
_REACH = 2


def enlarged_masks(
    probability: torch.Tensor,
    threshold: float,
    *,
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
    size: tuple[int, int],
) -> torch.Tensor:
    """Where masks exceed ``threshold`` once they are enlarged to the padded size, cut to the image and resized.

    Both steps are bilinear (``align_corners`` False), so a pixel is a weighted mean of cells: it cannot exceed the
    threshold where no cell does, and rows and columns are weighted one after the other.

    Args:
        probability: float32 (N, h, w).
        threshold: see above.
        image_size, padded_size, size: (height, width) of the network input without and with padding, and the result's.

    Returns:
        Bool (N, H, W).
    """
    found = torch.zeros((len(probability), *size), dtype=torch.bool, device=probability.device)
    boxes = boxes_of_masks(probability - threshold)
    axes = zip(probability.shape[1:], padded_size, image_size, size, strict=True)
    rows, columns = (_weights(*lengths, device=probability.device) for lengths in axes)
    for mask, cells, (top, bottom, left, right) in zip(found, probability, boxes, strict=True):
        if top == bottom:
            continue
        (y, above), (x, beside) = _reached(rows, top, bottom), _reached(columns, left, right)
        mask[y, x] = rows[y, above] @ cells[above, beside] @ columns[x, beside].T > threshold
    return found


def _weights(cells: int, padded: int, image: int, length: int, *, device: torch.device) -> torch.Tensor:
    """What each cell of a line weighs in each pixel of the result: float32 (length, cells)."""
    each = torch.eye(cells, device=device)[None]
    enlarged = F.interpolate(each, size=padded, mode="linear", align_corners=False)[..., :image]
    return F.interpolate(enlarged, size=length, mode="linear", align_corners=False)[0].T.contiguous()


def _reached(weights: torch.Tensor, first: int, last: int) -> tuple[slice, slice]:
    """The pixels in which cells from ``first`` to before ``last`` weigh anything, and all cells that do so in these."""
    pixels = weights[:, first:last].any(dim=1).nonzero()
    cells = slice(max(first - _REACH, 0), last + _REACH)
    return slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0, 0), cells
