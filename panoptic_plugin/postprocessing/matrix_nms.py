"""Non-maximum suppression of SOLOv2 (https://arxiv.org/abs/2003.10152): of grid cells, and of masks in one matrix.

Shapes: N masks, C categories, H x W pixels of the mask features, S x S grid cells.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError

KERNELS = ("gaussian", "linear")
_PIXELS_AT_ONCE = 65_536


def suppress_points(scores: torch.Tensor) -> torch.Tensor:
    """Scores of the cells that are no lower than themselves, their left, upper and upper left neighbour; else 0.

    Args:
        scores: float (..., S, S), each category by itself; finite.

    Returns:
        Float, of the shape of ``scores``.
    """
    flat = scores.reshape(-1, 1, *scores.shape[-2:])
    highest = F.max_pool2d(flat, kernel_size=2, stride=1, padding=1)[..., :-1, :-1]
    return torch.where(highest == flat, flat, torch.zeros_like(flat)).reshape(scores.shape)


def mask_ious(masks: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each two masks.

    Args:
        masks: bool (N, H, W), fewer than 2^24 pixels each.

    Returns:
        Float32 (N, N); 0 where both masks are empty. Float32 also under autocast: half precision counts to 2,048 only.
    """
    with torch.autocast(masks.device.type, enabled=False):
        flat = masks.flatten(1)
        shared = torch.zeros(len(masks), len(masks), device=masks.device)
        for part in flat.split(_PIXELS_AT_ONCE, dim=1):  # all pixels as float32 would take 262 MB of 500 masks
            pixels = part.float()
            shared += pixels @ pixels.T
        areas = shared.diagonal()
        return shared / (areas[:, None] + areas[None, :] - shared).clamp(min=1.0)


def matrix_nms(
    ious: torch.Tensor,
    categories: torch.Tensor,
    scores: torch.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> torch.Tensor:
    """Scores lowered by how much a mask overlaps higher ones of its category, all at once.

    The factor of mask j is the lowest f(iou_ij) / f(highest iou of i with a higher one) over the higher ones i of the
    same category, at most 1, where f(x) is exp(-sigma x^2), or 1 - x for "linear".

    Args:
        ious: float (N, N), see :func:`mask_ious`.
        categories: int64 (N,).
        scores: float (N,), in any order; of equal ones the first counts as higher.
        kernel: one of :data:`KERNELS`.
        sigma: of the Gaussian kernel.

    Returns:
        Float32 (N,), in the order given.

    Raises:
        ConfigError: an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"the kernel of matrix NMS is {kernel!r}, expected one of {', '.join(KERNELS)}")
    if not len(scores):
        return scores.float()
    order = scores.argsort(descending=True, stable=True)
    same = categories[order, None] == categories[order]
    overlap = (ious.float()[order][:, order] * same).triu(diagonal=1)  # row: higher, column: lower
    covered = overlap.max(dim=0).values[:, None]
    if kernel == "gaussian":
        factor = torch.exp(-sigma * (overlap.square() - covered.square()))
    else:
        factor = (1 - overlap) / (1 - covered).clamp(min=1e-6)
    factor = factor.masked_fill(~same.triu(diagonal=1), 1.0).min(dim=0).values.clamp(max=1.0)
    result = torch.empty_like(factor)
    result[order] = scores.float()[order] * factor
    return result
