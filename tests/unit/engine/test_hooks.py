"""When evaluation runs and what it logs; the last words of a training."""

from __future__ import annotations

import math

import pytest
from detectron2.engine import TrainerBase

from panoptic_plugin.engine.hooks import EvaluationHook, SummaryHook


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


def test_the_end_of_a_training_says_where_everything_is(tmp_path, caplog):
    for name in ("model_final.pth", "metrics.json", "previews/iter_0000003.jpg", "previews/iter_0000005.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    loop = Loop()
    loop.register_hooks([SummaryHook(str(tmp_path))])
    with caplog.at_level("INFO"):
        loop.train(0, 2)
    (message,) = [record.getMessage() for record in caplog.records if "Training is done" in record.getMessage()]
    assert "model: model_final.pth" in message and "2 previews, the last one: previews/iter_0000005.jpg" in message
    assert "best model" not in message


def test_a_training_that_failed_is_not_done(tmp_path, caplog):
    loop = Loop(fails_at=1)
    loop.register_hooks([SummaryHook(str(tmp_path))])
    with caplog.at_level("INFO"), pytest.raises(FloatingPointError):
        loop.train(0, 2)
    assert "Training is done" not in caplog.text
