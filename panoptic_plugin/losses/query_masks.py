"""Losses of masks that belong to queries: focal and Dice (DETR, https://arxiv.org/abs/2005.12872, section 4.4)."""

from __future__ import annotations

import torch
from fvcore.nn import sigmoid_focal_loss

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def focal_mask_loss(logits: torch.Tensor, targets: torch.Tensor, num_segments: float | torch.Tensor) -> torch.Tensor:
    """Sigmoid focal loss, mean over the pixels of a mask, sum over masks, divided by ``num_segments``.

    Args:
        logits: float (M, P), P pixels.
        targets: float (M, P), 0 or 1.
        num_segments: of the batch, the mean over the processes.
    """
    loss = sigmoid_focal_loss(logits, targets, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA, reduction="none")
    return loss.mean(dim=1).sum() / num_segments


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, num_segments: float | torch.Tensor) -> torch.Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1) of each mask, summed and divided by ``num_segments``.

    Args:
        logits: float (M, P).
        targets: float (M, P), 0 or 1.
        num_segments: of the batch, the mean over the processes.
    """
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(dim=1)
    total = probability.sum(dim=1) + targets.sum(dim=1)
    return (1 - (overlap + 1) / (total + 1)).sum() / num_segments
