"""Pixels to instances: each thing pixel goes to the center nearest to where its offset points.

Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.3. Shapes: (H, W) image, K centers, P thing pixels.
"""

from __future__ import annotations

import torch

# Distances held at a time. On a CPU they should stay in the second-level cache; a GPU wants long kernels.
DISTANCES_AT_A_TIME = {"cpu": 1 << 18, "cuda": 1 << 24}


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
    if centers.shape[0] == 0:
        return instance_ids
    y, x = thing_mask.nonzero(as_tuple=True)
    target_y = y + offsets[0][thing_mask].float()
    target_x = x + offsets[1][thing_mask].float()
    instance_ids[thing_mask] = nearest_center(centers.float(), target_y, target_x) + 1
    return instance_ids


def nearest_center(centers: torch.Tensor, target_y: torch.Tensor, target_x: torch.Tensor) -> torch.Tensor:
    """Index of the nearest center, the first of several.

    Args:
        centers: float32 (K, 2), K > 0.
        target_y: float32 (P,).
        target_x: float32 (P,).

    Returns:
        int64 (P,), 0 to K - 1. Memory beside it is bounded, whatever K and P are.
    """
    center_y, center_x = centers[:, :1], centers[:, 1:]
    budget = DISTANCES_AT_A_TIME.get(target_y.device.type, 1 << 22)
    chunk = max(1, budget // centers.shape[0])
    nearest = torch.empty(target_y.shape, dtype=torch.int64, device=target_y.device)
    for start in range(0, target_y.shape[0], chunk):
        part = slice(start, start + chunk)
        squared = (center_y - target_y[part]) ** 2 + (center_x - target_x[part]) ** 2
        # The root looks superfluous, but rounding it makes ties, and ties are broken as Detectron2 breaks them.
        nearest[part] = squared.sqrt_().argmin(dim=0)
    return nearest
