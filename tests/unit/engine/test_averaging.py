"""Moving averages of weights: the formula, their place in checkpoints, and who uses them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.averaging import AveragedWeights, build_averaged_weights, load_averages
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.errors import CheckpointError, ConfigError


class Model(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def set(self, value: float):
        for tensor in self.state_dict().values():
            tensor.fill_(value)


def test_the_first_values_are_taken_as_they_are_and_the_decay_rises():
    model, decay = Model(), 0.3
    averaged = AveragedWeights(model, decay=decay)
    expected = None
    for count, value in enumerate((8.0, 2.0, -6.0, 4.0)):
        model.set(value)
        averaged.update(model)
        kept = min(decay, (1 + count) / (10 + count))
        expected = value if expected is None else kept * expected + (1 - kept) * value
        for name, tensor in averaged.averages.items():
            wanted = int(value) if name.endswith("num_batches_tracked") else expected
            torch.testing.assert_close(tensor, torch.full_like(tensor, wanted))


def test_the_model_is_not_changed():
    model = Model()
    before = copy.deepcopy(model.state_dict())
    averaged = AveragedWeights(model, decay=0.9)
    averaged.update(model)
    averaged.averages["0.weight"].zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_holds_them_under_their_own_key_and_they_go_on_from_it(tmp_path):
    model = Model()
    averaged = AveragedWeights(model, decay=0.9)
    for value in (1.0, 3.0):
        model.set(value)
        averaged.update(model)
    PluginCheckpointer(model, str(tmp_path), ema=averaged).save("model")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert content["model"]["0.weight"][0, 0] == 3.0
    assert content["ema"]["averages"]["0.weight"][0, 0] == averaged.averages["0.weight"][0, 0] < 3.0
    other = Model()
    resumed = AveragedWeights(other, decay=0.9)
    PluginCheckpointer(other, str(tmp_path), ema=resumed).resume_or_load("", resume=True)
    for one, its_model in ((averaged, model), (resumed, other)):
        its_model.set(7.0)
        one.update(its_model)
    assert resumed.num_updates == averaged.num_updates == 3
    assert all(torch.equal(value, averaged.averages[name]) for name, value in resumed.averages.items())


def test_averages_of_another_model_are_refused():
    averaged = AveragedWeights(Model(), decay=0.9)
    with pytest.raises(CheckpointError, match="f.pth: its averaged weights do not fit.*MODEL.EMA.EVALUATE False"):
        load_averages(nn.Linear(3, 2), averaged.state_dict(), "f.pth")


def test_the_config_decides():
    cfg = get_cfg()
    assert build_averaged_weights(cfg, Model()) is None
    cfg.MODEL.EMA.ENABLED, cfg.MODEL.EMA.DECAY = True, 0.5
    assert build_averaged_weights(cfg, Model()).decay == 0.5
    cfg.MODEL.EMA.DECAY = 1.0
    with pytest.raises(ConfigError, match="MODEL.EMA.DECAY is 1.0"):
        build_averaged_weights(cfg, Model())
