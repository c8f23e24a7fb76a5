"""When evaluation runs and what it logs."""

from __future__ import annotations

import math

import pytest
from detectron2.engine import TrainerBase

from panoptic_plugin.engine.hooks import EvaluationHook


class Loop(TrainerBase):
    def __init__(self, fails_at: int = -1):
        super().__init__()
        self.fails_at = fails_at

    def run_step(self):
        if self.iter == self.fails_at:
            raise FloatingPointError


@pytest.mark.parametrize("period, expected", [(0, 1), (2, 3), (3, 2), (6, 1)])
def test_evaluates_every_period_and_once_at_the_end(period, expected):
    calls = []
    loop = Loop()
    loop.register_hooks([EvaluationHook(period, lambda: calls.append(1))])
    loop.train(0, 6)
    assert len(calls) == expected


def test_does_not_evaluate_after_a_failure_in_the_last_iteration():
    calls = []
    loop = Loop(fails_at=5)
    loop.register_hooks([EvaluationHook(0, lambda: calls.append(1))])
    with pytest.raises(FloatingPointError):
        loop.train(0, 6)
    assert not calls


def test_undefined_figures_are_not_logged():
    loop = Loop()
    results = {"panoptic_seg": {"PQ": 50.0, "PQ_th": math.nan, "SQ_th": None}}
    loop.register_hooks([EvaluationHook(0, lambda: results)])
    loop.train(0, 1)
    assert set(loop.storage.latest()) == {"panoptic_seg/PQ"}
