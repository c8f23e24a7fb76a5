"""One meaning of class scores for all that reads them: embedding, grouping, scores of instances, augmentation.

The scores of a branch that declares "softmax" are its softmax. Those of a "sigmoid" branch are its sigmoids divided by
their sum, so that both sum to 1 over the classes. The most likely class is that of the highest logit in either case.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_plugin.systems.joint.semantic_output import Activation


def score_logits(logits: torch.Tensor, activation: Activation) -> torch.Tensor:
    """float32 (N, C, h, w) whose softmax is the scores, from raw logits (N, C, h, w)."""
    return F.logsigmoid(logits.float()) if activation == "sigmoid" else logits.float()


def class_scores(logits: torch.Tensor, activation: Activation) -> torch.Tensor:
    """float32 (N, C, h, w), 0 to 1, summing to 1 over the classes."""
    return score_logits(logits, activation).softmax(dim=1)
