"""Cross entropy with online hard example mining (OHEM) by the probability of the true class."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def ohem_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_value: int,
    threshold: float,
    min_kept: int,
    pixel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross entropy of the pixels whose true class is improbable (HRNet-OCR, https://arxiv.org/abs/1909.11065).

    Kept are the labelled pixels whose true class has a probability below ``threshold``, and in any case the
    ``min_kept`` least probable ones of the batch, or all where there are fewer. The weights do not take part in the
    choice. The published code can keep no pixel at all (equal probabilities above the threshold), which gives NaN,
    and leaves out one pixel of a batch of fewer than ``min_kept``; neither happens here.

    Args:
        logits: float (N, C, H, W).
        targets: int64 (N, H, W), class indices or ``ignore_value``.
        ignore_value: the label without a loss.
        threshold: probability of 0 to 1.
        min_kept: pixels of the batch.
        pixel_weights: float (N, H, W), multiplied onto the kept pixels' losses; the mean is one over pixels.

    Returns:
        float scalar, 0 where all pixels are ignored.
    """
    losses = F.cross_entropy(logits, targets, ignore_index=ignore_value, reduction="none").flatten()
    kept = (targets != ignore_value).flatten() & _is_hard(losses.detach(), targets, ignore_value, threshold, min_kept)
    if pixel_weights is not None:
        losses = losses * pixel_weights.flatten()
    return (losses * kept).sum() / kept.sum().clamp(min=1)


def _is_hard(
    losses: torch.Tensor, targets: torch.Tensor, ignore_value: int, threshold: float, min_kept: int
) -> torch.Tensor:
    # The cross entropy is -log(probability): the same order, upside down. Nothing is read back from the device.
    limit = -math.log(max(threshold, torch.finfo(torch.float32).tiny))
    ranked = losses.masked_fill((targets == ignore_value).flatten(), -1.0)
    above = losses > limit
    if min_kept <= 0:
        return above
    if min_kept >= ranked.numel():
        return torch.ones_like(above)
    return above | (ranked >= ranked.kthvalue(ranked.numel() - min_kept + 1).values)
