"""Cross entropy over the hardest pixels only, "bootstrapped" cross entropy."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

SCOPES = ("image", "batch")


def hard_pixel_mining(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_value: int,
    top_k: float,
    pixel_weights: torch.Tensor | None = None,
    scope: str = "batch",
    round_up: bool = False,
) -> torch.Tensor:
    """Mean of the highest pixel losses (DeeperLab, https://arxiv.org/abs/1902.05093, section 3.5).

    Ignored pixels have loss 0 and count among all pixels, as in Detectron2's ``DeepLabCE``: the number of mined pixels
    depends on shapes alone, so nothing is read back from the device.

    Args:
        logits: float (N, C, H, W).
        targets: int64 (N, H, W), class indices or ``ignore_value``.
        ignore_value: the label without a loss.
        top_k: the fraction of the pixels to average over, above 0 and at most 1.
        pixel_weights: float (N, H, W), multiplied onto each pixel's loss before the choice.
        scope: "batch", the highest of all N * H * W pixels; "image", those of each image, which then weigh the same.
        round_up: what becomes of a part of a pixel; DeepLab leaves it out, EfficientPS counts it.

    Returns:
        float scalar.
    """
    losses = F.cross_entropy(logits, targets, ignore_index=ignore_value, reduction="none")
    if pixel_weights is not None:
        losses = losses * pixel_weights
    if top_k >= 1:
        return losses.mean()
    groups = losses.flatten(1) if scope == "image" else losses.reshape(1, -1)
    num_mined = _share_of(groups.shape[1], top_k, round_up)
    return torch.topk(groups, num_mined, dim=1, sorted=False).values.mean()


def _share_of(count: int, share: float, round_up: bool) -> int:
    if round_up:
        return math.ceil(round(share * count, 6))  # 0.1 * 30 is a little more than 3
    return max(1, int(share * count))
