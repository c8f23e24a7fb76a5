"""Cross entropy over the hardest pixels only, "bootstrapped" cross entropy."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def hard_pixel_mining(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_value: int,
    top_k: float,
    pixel_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of the highest pixel losses of the batch (DeeperLab, https://arxiv.org/abs/1902.05093, section 3.5).

    Ignored pixels have loss 0 and count among all pixels, as in Detectron2's ``DeepLabCE``: the number of mined pixels
    depends on shapes alone, so nothing is read back from the device.

    Args:
        logits: float (N, C, H, W).
        targets: int64 (N, H, W), class indices or ``ignore_value``.
        ignore_value: the label without a loss.
        top_k: the fraction of all N * H * W pixels to average over, above 0 and at most 1.
        pixel_weights: float (N, H, W), multiplied onto each pixel's loss before the choice.

    Returns:
        float scalar.
    """
    losses = F.cross_entropy(logits, targets, ignore_index=ignore_value, reduction="none")
    if pixel_weights is not None:
        losses = losses * pixel_weights
    if top_k >= 1:
        return losses.mean()
    num_mined = max(1, int(top_k * losses.numel()))
    return torch.topk(losses.flatten(), num_mined, sorted=False).values.mean()
