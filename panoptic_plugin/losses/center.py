"""Loss of the center heatmap."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_plugin.losses.weighted_mean import weighted_mean


def center_mse(heatmap: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared error (Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.2).

    Args:
        heatmap: float (N, 1, H, W), predicted center heatmap.
        targets: float (N, 1, H, W), Gaussians of height 1 at the centers.
        weights: float (N, 1, H, W), 0 where nothing is known (crowds, unlabelled pixels).

    Returns:
        float scalar, 0 where all weights are 0.
    """
    return weighted_mean(F.mse_loss(heatmap, targets, reduction="none"), weights)
