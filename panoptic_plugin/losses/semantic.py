"""The choice between the semantic losses, by the name in ``MODEL.SEM_SEG_HEAD.LOSS_TYPE``."""

from __future__ import annotations

import torch
from torch import nn

from panoptic_plugin.losses.cross_entropy import cross_entropy
from panoptic_plugin.losses.hard_pixel_mining import hard_pixel_mining

SEMANTIC_LOSSES = ("cross_entropy", "hard_pixel_mining")


class SemanticLoss(nn.Module):
    """A semantic loss as a module without parameters, in the place of Detectron2's ``head.loss``."""

    def __init__(self, *, loss_type: str, ignore_value: int, top_k: float) -> None:
        """
        Args:
            loss_type: "cross_entropy" or "hard_pixel_mining".
            ignore_value: the label without a loss.
            top_k: fraction of pixels for "hard_pixel_mining".

        Raises:
            ValueError: an unknown ``loss_type``.
        """
        super().__init__()
        if loss_type not in SEMANTIC_LOSSES:
            raise ValueError(f"loss_type is {loss_type!r}, expected one of {SEMANTIC_LOSSES}")
        self.loss_type = loss_type
        self.ignore_value = ignore_value
        self.top_k = top_k

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, C, H, W), targets int64 (N, H, W), pixel weights (N, H, W) or None, to a scalar."""
        if self.loss_type == "cross_entropy":
            return cross_entropy(logits, targets, ignore_value=self.ignore_value, pixel_weights=weights)
        return hard_pixel_mining(
            logits, targets, ignore_value=self.ignore_value, top_k=self.top_k, pixel_weights=weights
        )
