"""Pixels to instances: each thing pixel goes to the center nearest to where its offset points.

Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.3. Shapes: (H, W) image, K centers, P thing pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.nearest_cells import LONGEST, NearestCells, make_cells
from panoptic_plugin.postprocessing.pixels import parts_of, pixels_of, rows_and_columns

# Distances to all centers that are made at a time; it bounds the memory, whatever K is.
DISTANCES_AT_A_TIME = 1 << 22
# The same where centers are looked up; what fits a CPU's cache.
PIXELS_AT_A_TIME = LONGEST
# Where more than one pixel in so many is asked for, it is faster to look all pixels up, in the order of the memory.
SPARSE = 4


def group_pixels(centers: torch.Tensor, offsets: torch.Tensor, thing_mask: torch.Tensor) -> torch.Tensor:
    """Instance of each thing pixel.

    Args:
        centers: (K, 2) centers (y, x) in pixels.
        offsets: float (2, H, W), (dy, dx) in pixels; half precision is lifted to float32, which it needs to hold a
            coordinate. Any value will do: distances are those of float32 arithmetic, so that far away, where they are
            rounded to the same number, and at infinity the first center counts, as it does for NaN.
        thing_mask: bool (H, W).

    Returns:
        int64 (H, W), 1 to K in the order of ``centers``, 0 outside the mask or without any center. Of equally near
        centers the first counts.
    """
    instance_ids = torch.zeros(thing_mask.shape, dtype=torch.int64, device=offsets.device)
    if centers.shape[0] > 0:
        pixels = pixels_of(thing_mask)
        instance_ids.view(-1)[pixels] = centers_of_pixels(centers, offsets, pixels).long() + 1
    return instance_ids


def centers_of_pixels(centers: torch.Tensor, offsets: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """As :func:`group_pixels`, for a list of pixels.

    Args:
        centers: (K, 2), K > 0 unless P is 0.
        offsets: float (2, H, W).
        pixels: int64 (P,) positions y * W + x, ascending.

    Returns:
        int32 (P,), 0 to K - 1.
    """
    centers, offsets = centers.float(), offsets.detach().float()
    if len(pixels) == 0:
        return torch.zeros_like(pixels, dtype=torch.int32)
    if device.is_cpu(offsets):
        return torch.from_numpy(_find_in_cells(centers.numpy(), offsets.numpy(), pixels.numpy()))
    flat, width = offsets.reshape(2, -1), offsets.shape[2]
    nearest = torch.empty(pixels.shape, dtype=torch.int32, device=pixels.device)
    for part in parts_of(len(pixels), max(1, DISTANCES_AT_A_TIME // centers.shape[0])):
        some = pixels[part]
        y, x = rows_and_columns(some, width)
        nearest[part] = nearest_of_all(centers, y + flat[0].index_select(0, some), x + flat[1].index_select(0, some))
    return nearest


def _find_in_cells(centers: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """As :func:`centers_of_pixels` on a CPU."""
    offsets, (height, width) = np.ascontiguousarray(offsets), offsets.shape[1:]
    cells = make_cells(centers, (height, width))
    nearest = np.empty(len(pixels), dtype=np.int32)
    if len(pixels) * SPARSE < height * width or width > PIXELS_AT_A_TIME:
        for part in parts_of(len(pixels), PIXELS_AT_A_TIME):
            nearest[part] = cells.look_up(*(target[None] for target in _targets(offsets, pixels[part])))[0]
    else:
        _look_all_up(cells, offsets, pixels, out=nearest)
    undecided = np.flatnonzero(nearest < 0)
    for part in parts_of(len(undecided), PIXELS_AT_A_TIME):
        points = undecided[part]
        nearest[points] = cells.compare(-1 - nearest[points], *_targets(offsets, pixels[points]))
    return nearest


def _look_all_up(cells: NearestCells, offsets: np.ndarray, pixels: np.ndarray, out: np.ndarray) -> None:
    """What ``cells`` say of some pixels, int32 (P,), by looking up all pixels of some rows at a time."""
    _, height, width = offsets.shape
    column = np.arange(width, dtype=np.float32)
    for rows in parts_of(height, PIXELS_AT_A_TIME // width):
        start, stop = np.searchsorted(pixels, (rows.start * width, rows.stop * width))
        dy, dx = offsets[:, rows]
        row = np.arange(rows.start, rows.start + len(dy), dtype=np.float32)
        found = cells.look_up(dy + row[:, None], dx + column).ravel()
        out[start:stop] = found.take(pixels[start:stop] - rows.start * width, mode="clip")


def _targets(offsets: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(y, x), float32 (P,), that the offsets (2, H, W) at some pixels point to."""
    flat, width = offsets.reshape(2, -1), np.int32(offsets.shape[2])
    x = pixels.astype(np.int32)
    y = x // width
    x -= y * width
    # To clip positions, all of which are inside, takes half the time of checking them.
    dy, dx = flat[0].take(pixels, mode="clip"), flat[1].take(pixels, mode="clip")
    dy += y.astype(np.float32)
    dx += x.astype(np.float32)
    return dy, dx


def nearest_of_all(centers: torch.Tensor, target_y: torch.Tensor, target_x: torch.Tensor) -> torch.Tensor:
    """Index of the nearest center, the first of several, on any device.

    Args:
        centers: float32 (K, 2), K > 0.
        target_y: float32 (P,).
        target_x: float32 (P,).

    Returns:
        int64 (P,), 0 to K - 1.
    """
    squared, dx = centers[:, :1] - target_y, centers[:, 1:] - target_x
    squared.square_().add_(dx.square_())
    # The root looks superfluous, but rounding it makes ties, and ties are broken as Detectron2 breaks them. As a power
    # it is rounded correctly everywhere; torch.sqrt may be off by one place on a CPU.
    return squared.pow_(0.5).argmin(dim=0)
