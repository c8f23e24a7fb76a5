"""What every semantic branch gives: logits, features to guide other branches, and outputs that training supervises."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

Activation = str
ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid")


@dataclass(frozen=True)
class SemanticOutput:
    """The result of a semantic branch for a batch of N images of H x W pixels (padded).

    Attributes:
        logits: float (N, C, h, w), raw, fused over the scales, h = ceil(H / stride).
        features: float (N, F, ceil(H / 4), ceil(W / 4)) of scale 1.0, or None where a branch has none to give.
        auxiliary: (name, logits (N, C, h', w'), weight) of further outputs with a loss of their own. Their loss is
            ``loss_sem_seg_<name>``.
        stride: pixels of the image for one of ``logits``: 4, or 1 where scales are fused at the size of the image.
    """

    logits: torch.Tensor
    features: torch.Tensor | None = None
    auxiliary: tuple[tuple[str, torch.Tensor, float], ...] = field(default_factory=tuple)
    stride: int = 4


def probabilities(logits: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Class scores (N, C, h, w) of 0 to 1 by the activation that a branch declares; softmax scores sum to 1."""
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)
