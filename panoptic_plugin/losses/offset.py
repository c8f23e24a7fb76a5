"""Loss of the offsets from pixels to their instance's center."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_plugin.losses.weighted_mean import weighted_mean


def offset_l1(offsets: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted L1 distance, y and x summed (Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.2).

    Args:
        offsets: float (N, 2, H, W), predicted (dy, dx) in pixels of the targets.
        targets: float (N, 2, H, W), (dy, dx) from each thing pixel to its center.
        weights: float (N, 1, H, W), 0 outside things.

    Returns:
        float scalar in pixels, 0 where all weights are 0.
    """
    return weighted_mean(F.l1_loss(offsets, targets, reduction="none"), weights)
