"""The mean that the instance losses share."""

from __future__ import annotations

import torch

# Far below any weight in use: a sum of weights is either 0 or at least the weight of one pixel.
SMALLEST_WEIGHT = 1e-6


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``sum(losses * weights) / sum(weights)``, 0 with zero gradients where all weights are 0.

    The sum is clamped rather than tested: a test would make the host wait for the device in every step.

    Args:
        losses: float (N, C, H, W).
        weights: float (N, 1, H, W); C channels together weigh what one pixel weighs.

    Returns:
        float scalar.
    """
    return (losses * weights).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)
