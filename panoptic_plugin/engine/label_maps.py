"""Evaluation without full-resolution logits: categories are all that is scored, and far faster to make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from detectron2.evaluation import DatasetEvaluator
from torch import nn

from panoptic_plugin.evaluation.evaluator import ImageEvaluator


@contextmanager
def label_maps(model: nn.Module, evaluators: Sequence[DatasetEvaluator]) -> Iterator[None]:
    """Within the block the model's ``sem_seg`` is categories (H, W), where all evaluators can read them.

    Evaluators other than ours, such as Detectron2's ``SemSegEvaluator``, expect logits (C, H, W), and get them.

    Args:
        model: one without an attribute ``return_logits`` is left alone.
        evaluators: those that read the model's results.
    """
    before = getattr(model, "return_logits", None)
    if before and all(isinstance(evaluator, ImageEvaluator) for evaluator in evaluators):
        model.return_logits = False
    try:
        yield
    finally:
        if before is not None:
            model.return_logits = before
