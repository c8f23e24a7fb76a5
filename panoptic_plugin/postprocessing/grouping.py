"""Pixels to instances: each thing pixel goes to the center nearest to where its offset points.

Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.3. Shapes: (H, W) image, K centers, P thing pixels.
"""

from __future__ import annotations

import torch

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.nearest_cells import MOST_POINTS, make_cells
from panoptic_plugin.postprocessing.pixels import pixels_of, rows_and_columns

# What is worked on at a time where distances to all centers are made; it bounds the memory, whatever K is.
DISTANCES_AT_A_TIME = 1 << 26


def group_pixels(centers: torch.Tensor, offsets: torch.Tensor, thing_mask: torch.Tensor) -> torch.Tensor:
    """Instance of each thing pixel.

    Args:
        centers: (K, 2) centers (y, x) in pixels.
        offsets: float (2, H, W), (dy, dx) in pixels; half precision is lifted to float32, which it needs to hold a
            coordinate.
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
    centers, offsets = centers.float(), offsets.detach()
    nearest = torch.empty(pixels.shape, dtype=torch.int32, device=pixels.device)
    if len(pixels) == 0:
        return nearest
    if device.is_cpu(offsets):
        chunk, cells = MOST_POINTS, make_cells(centers.numpy(), (offsets.shape[1], offsets.shape[2]))
    else:
        chunk, cells = max(1, DISTANCES_AT_A_TIME // centers.shape[0]), None
    flat = offsets.reshape(2, -1)
    for start in range(0, pixels.shape[0], chunk):
        some = pixels[start : start + chunk]
        y, x = rows_and_columns(some, offsets.shape[2])
        y += flat[0].index_select(0, some)
        x += flat[1].index_select(0, some)
        if cells is None:
            nearest[start : start + chunk] = nearest_of_all(centers, y, x)
        else:
            cells.nearest(y.numpy(), x.numpy(), out=nearest[start : start + chunk].numpy())
    return nearest


def nearest_of_all(centers: torch.Tensor, target_y: torch.Tensor, target_x: torch.Tensor) -> torch.Tensor:
    """Index of the nearest center, the first of several, on any device.

    Args:
        centers: float32 (K, 2), K > 0.
        target_y: float32 (P,).
        target_x: float32 (P,).

    Returns:
        int64 (P,), 0 to K - 1.
    """
    squared = (centers[:, :1] - target_y) ** 2 + (centers[:, 1:] - target_x) ** 2
    # The root looks superfluous, but rounding it makes ties, and ties are broken as Detectron2 breaks them.
    return squared.sqrt_().argmin(dim=0)
