"""The choice between the semantic losses, by the name in ``MODEL.SEM_SEG_HEAD.LOSS_TYPE`` and the like."""

from __future__ import annotations

import torch
from torch import nn

from panoptic_plugin.losses.cross_entropy import cross_entropy
from panoptic_plugin.losses.hard_pixel_mining import hard_pixel_mining
from panoptic_plugin.losses.ohem import ohem_cross_entropy
from panoptic_plugin.losses.rmi import binary_cross_entropy, rmi_loss

SEMANTIC_LOSSES = ("cross_entropy", "hard_pixel_mining", "ohem", "rmi")
OHEM_THRESHOLD = 0.9
OHEM_MIN_KEPT = 131072


class SemanticLoss(nn.Module):
    """A semantic loss as a module without parameters, in the place of Detectron2's ``head.loss``.

    Attributes:
        activation: what makes scores of the logits of a network trained with it, "softmax" or "sigmoid".
    """

    def __init__(
        self,
        *,
        loss_type: str,
        ignore_value: int,
        top_k: float = 1.0,
        ohem_threshold: float = OHEM_THRESHOLD,
        ohem_min_kept: int = OHEM_MIN_KEPT,
    ) -> None:
        """
        Args:
            loss_type: one of :data:`SEMANTIC_LOSSES`.
            ignore_value: the label without a loss.
            top_k: fraction of pixels for "hard_pixel_mining".
            ohem_threshold: probability of the true class below which "ohem" keeps a pixel.
            ohem_min_kept: pixels of a batch that "ohem" keeps at least.

        Raises:
            ValueError: an unknown ``loss_type``.
        """
        super().__init__()
        if loss_type not in SEMANTIC_LOSSES:
            raise ValueError(f"loss_type is {loss_type!r}, expected one of {SEMANTIC_LOSSES}")
        self.loss_type = loss_type
        self.ignore_value = ignore_value
        self.top_k = top_k
        self.ohem_threshold, self.ohem_min_kept = ohem_threshold, ohem_min_kept
        self.activation = "sigmoid" if loss_type == "rmi" else "softmax"

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, C, H, W), targets int64 (N, H, W), pixel weights (N, H, W) or None, to a scalar."""
        if self.loss_type == "rmi":
            return rmi_loss(logits, targets, ignore_value=self.ignore_value, pixel_weights=weights)
        if self.loss_type == "ohem":
            return ohem_cross_entropy(
                logits,
                targets,
                ignore_value=self.ignore_value,
                threshold=self.ohem_threshold,
                min_kept=self.ohem_min_kept,
                pixel_weights=weights,
            )
        if self.loss_type == "hard_pixel_mining":
            return hard_pixel_mining(
                logits, targets, ignore_value=self.ignore_value, top_k=self.top_k, pixel_weights=weights
            )
        return cross_entropy(logits, targets, ignore_value=self.ignore_value, pixel_weights=weights)

    def auxiliary(
        self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of an auxiliary output: over all pixels, without mining (HRNet-OCR) and without RMI (NVIDIA)."""
        plain = binary_cross_entropy if self.loss_type == "rmi" else cross_entropy
        return plain(logits, targets, ignore_value=self.ignore_value, pixel_weights=weights)
