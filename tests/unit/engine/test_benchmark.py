"""The speed table of inference."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from panoptic_plugin.engine.benchmark import benchmark, format_summary
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.systems.timer import StageTimer


class Timed(nn.Module):
    def __init__(self, enabled: bool):
        super().__init__()
        self.timer = StageTimer(enabled=enabled)

    def forward(self, batch):
        assert not self.training
        for stage in ("network", "postprocessing"):
            with self.timer.measure(stage, torch.device("cpu"), len(batch)):
                sum(batch)


def test_stages_are_reported_apart(tmp_path):
    model = Timed(True)
    summary = benchmark(model, [[1], [2], [3, 4]], str(tmp_path))
    assert {"network_ms_mean", "network_ms_median", "postprocessing_ms_mean", "images_per_second"} <= set(summary)
    assert json.loads((tmp_path / "benchmark.json").read_text()) == summary
    assert model.training
    table = format_summary(summary)
    assert "network" in table and "postprocessing" in table


@pytest.mark.parametrize("model", [nn.Identity(), Timed(False)])
def test_a_model_without_a_timer_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="BENCHMARK_NETWORK_SPEED"):
        benchmark(model, [], str(tmp_path))
