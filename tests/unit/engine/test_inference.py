"""What evaluation runs in the place of a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.averaging import AveragedWeights
from panoptic_plugin.engine.inference import for_inference


@pytest.fixture
def model():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    model[1].running_var.fill_(4.0)
    return model


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_keys_decide_and_the_model_stays(model, fold, channels_last):
    cfg = get_cfg()
    cfg.TEST.FOLD_BN, cfg.TEST.CHANNELS_LAST = fold, channels_last
    before, x = copy.deepcopy(model.state_dict()), torch.randn(1, 2, 8, 8)
    ready = for_inference(cfg, model)
    assert isinstance(ready[1], nn.Identity) is fold
    assert ready[0].weight.is_contiguous() is not channels_last
    assert (ready is model) is not (fold or channels_last)
    torch.testing.assert_close(ready(x), model(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous()


@pytest.mark.parametrize(
    ("enabled", "evaluate", "used"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_averages_are_used_where_the_config_says_so(model, enabled, evaluate, used):
    cfg = get_cfg()
    cfg.MODEL.EMA.ENABLED, cfg.MODEL.EMA.EVALUATE = enabled, evaluate
    averaged = AveragedWeights(model, decay=0.5)
    averaged.averages["0.weight"].fill_(7.0)
    cfg.TEST.FOLD_BN = False
    ready = for_inference(cfg, model, averaged.state_dict())
    assert bool((ready[0].weight == 7).all()) is used
    assert not (model[0].weight == 7).any()


def test_a_checkpoint_without_averages_is_evaluated_with_a_word(model, caplog):
    cfg = get_cfg()
    cfg.MODEL.EMA.ENABLED, cfg.MODEL.WEIGHTS = True, "model.pth"
    with caplog.at_level("INFO"):
        for_inference(cfg, model)
    assert "model.pth holds no averaged weights" in caplog.text
