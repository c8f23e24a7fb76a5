"""Pixels to instances: each thing pixel goes to the center nearest to where its offset points.

Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.3. Shapes: (H, W) image, K centers, P thing pixels.
"""

from __future__ import annotations

import torch

from panoptic_plugin.postprocessing.nearest_cells import nearest_by_cells
from panoptic_plugin.postprocessing.pixels import pixels_of, rows_and_columns

# What is worked on at a time; it bounds the memory whatever the image.
PIXELS_AT_A_TIME = 1 << 17
DISTANCES_AT_A_TIME = 1 << 24


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
        centers: (K, 2), K > 0.
        offsets: float (2, H, W).
        pixels: int64 (P,) positions y * W + x, ascending.

    Returns:
        int32 (P,), 0 to K - 1.
    """
    flat = offsets.detach().reshape(2, -1)
    nearest = torch.empty(pixels.shape, dtype=torch.int32, device=pixels.device)
    for start in range(0, pixels.shape[0], PIXELS_AT_A_TIME):
        part = pixels[start : start + PIXELS_AT_A_TIME]
        y, x = rows_and_columns(part, offsets.shape[2])
        target_y = y + flat[0].index_select(0, part).float()
        target_x = x + flat[1].index_select(0, part).float()
        nearest[start : start + PIXELS_AT_A_TIME] = nearest_center(centers.float(), target_y, target_x)
    return nearest


def nearest_center(centers: torch.Tensor, target_y: torch.Tensor, target_x: torch.Tensor) -> torch.Tensor:
    """Index of the nearest center, the first of several.

    Args:
        centers: float32 (K, 2), K > 0.
        target_y: float32 (P,).
        target_x: float32 (P,).

    Returns:
        Integers (P,), 0 to K - 1. Memory beside it is bounded, whatever K and P are.
    """
    if target_y.device.type == "cpu":
        found = nearest_by_cells(centers.numpy(), target_y.numpy(), target_x.numpy())
        return torch.from_numpy(found)
    center_y, center_x = centers[:, :1], centers[:, 1:]
    chunk = max(1, DISTANCES_AT_A_TIME // centers.shape[0])
    nearest = torch.empty(target_y.shape, dtype=torch.int32, device=target_y.device)
    for start in range(0, target_y.shape[0], chunk):
        part = slice(start, start + chunk)
        squared = (center_y - target_y[part]) ** 2 + (center_x - target_x[part]) ** 2
        # The root looks superfluous, but rounding it makes ties, and ties are broken as Detectron2 breaks them.
        nearest[part] = squared.sqrt_().argmin(dim=0).int()
    return nearest
