"""Times of stages: order, shares, and what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from panoptic_plugin.engine.stages import StageTimes, format_stages, model_timer
from panoptic_plugin.errors import ConfigError


def test_the_first_time_of_a_stage_counts_only_where_it_is_alone():
    times = StageTimes(torch.device("cpu"), ("decode", "augment", "unused"))
    for value in (100.0, 1.0, 3.0):
        times.add("augment", value)
    times.add("decode", 6.0)
    summary = times.summary()
    assert list(summary["stages"]) == ["decode", "augment"]
    assert summary["stages"]["augment"] == {"ms_median": 2.0, "ms_mean": 2.0, "share": 0.25, "count": 2}
    assert summary["ms"] == 8.0 and summary["images_per_second"] == 125.0
    assert times.total("augment") == 104.0 and times.total("unknown") == 0


def test_a_batch_counts_by_its_images_and_a_wrapped_function_is_timed(monkeypatch):
    clock = iter([0.0, 0.4, 1.0, 1.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    times = StageTimes(torch.device("cpu"))
    with times.measure("collate", num_images=4):
        pass
    assert times.wrap("double", lambda x: 2 * x)(3) == 6
    assert times.total("collate") == pytest.approx(100) and times.total("double") == pytest.approx(500)


def test_a_stage_of_no_time_has_no_rate():
    rows = format_stages({"a": {"ms_median": 4.0, "share": 1.0}, "b": {"ms_median": 0.0, "share": 0.0}})
    assert rows == [("a", "4.00", "100.0 %", "250"), ("b", "0.00", "0.0 %", "")]


def test_a_model_without_a_timer_is_refused():
    with pytest.raises(ConfigError, match="Linear does not time its stages; set MODEL.META_ARCHITECTURE"):
        model_timer(nn.Linear(1, 1))
