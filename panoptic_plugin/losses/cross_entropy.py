"""Cross entropy of a semantic segmentation, averaged over the labelled pixels."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_value: int,
    pixel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross entropy over the pixels that are not ignored; 0 where all are.

    Args:
        logits: float (N, C, H, W).
        targets: int64 (N, H, W), class indices or ``ignore_value``.
        ignore_value: the label without a loss.
        pixel_weights: float (N, H, W), multiplied onto each pixel's loss. As in Panoptic-DeepLab
            (https://arxiv.org/abs/1911.10194, section 3.3) they raise the loss of small instances, so the mean stays
            one over pixels and is not divided by their sum.

    Returns:
        float scalar.
    """
    losses = F.cross_entropy(logits, targets, ignore_index=ignore_value, reduction="none")
    if pixel_weights is not None:
        losses = losses * pixel_weights
    num_labelled = (targets != ignore_value).sum()
    return losses.sum() / num_labelled.clamp(min=1)
