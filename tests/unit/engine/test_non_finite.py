"""Weights that are not finite are named, and never saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.non_finite import check_weights, non_finite


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    model.register_buffer("mask", torch.full((2,), -torch.inf))  # infinite on purpose
    return model


def test_finite_weights_pass():
    assert non_finite(network()) == []
    check_weights(network(), 3)


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_var", "1.running_mean"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named_and_not_saved(name, value, tmp_path):
    model = network()
    checkpointer = PluginCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    model.state_dict()[name].flatten()[-1] = value
    with pytest.raises(FloatingPointError, match=f"iteration=7: {name};"):
        check_weights(model, 7)
    for saved_as in ("model_0000003", "model_best"):
        with pytest.raises(FloatingPointError, match=f"{saved_as}.pth is not written: infinite or NaN are {name}"):
            checkpointer.save(saved_as)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
