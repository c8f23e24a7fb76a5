"""Dice loss of masks, as in SOLOv2 (https://arxiv.org/abs/2003.10152, equations 3 and 4)."""

from __future__ import annotations

import torch

_SMOOTH = 0.001  # in both sums of the denominator, so that two empty masks divide by it and not by 0


def dice_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - 2 sum(p q) / (sum(p^2) + 0.001 + sum(q^2) + 0.001) of each mask, with p = sigmoid(logits).

    Args:
        logits: float (N, ...).
        targets: of the same shape, 0 or 1; any dtype.

    Returns:
        Float32 (N,). Float32 also under autocast: squares of small probabilities vanish in half precision, and a sum
        over 65,504 pixels overflows.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability = logits.flatten(1).float().sigmoid()
        wanted = targets.flatten(1).float()
        shared = (probability * wanted).sum(dim=1)
        sizes = probability.square().sum(dim=1) + _SMOOTH + wanted.square().sum(dim=1) + _SMOOTH
        return 1 - 2 * shared / sizes
