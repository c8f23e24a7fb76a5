"""Panoptic-DeepLab trained with weights by object: which losses they reach, and what the default leaves alone."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from panoptic_deeplab_models import THINGS, tiny_config, training_sample

from panoptic_plugin.errors import ConfigError


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    cfg = tiny_config()
    samples = [training_sample(64, 128, seed=seed) for seed in (0, 1)]
    for sample in samples:
        is_thing = torch.isin(sample["sem_seg"], torch.tensor(THINGS))
        halves = 1 + (torch.arange(128) >= 64).long().expand(64, 128)
        sample["instance_ids"] = torch.where(is_thing, halves, 0)
    return cfg, build_model(cfg), samples


def losses_of(built, **keys):
    """The losses of the same weights under other keys of INSTANCE_WEIGHT."""
    cfg, model, samples = built
    cfg = cfg.clone()
    for key, value in keys.items():
        cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT[key] = value
    other = build_model(cfg)
    other.load_state_dict(model.state_dict())
    torch.nn.init.constant_(other.ins_embed_head.center_predictor.bias, 1.0)  # finds centers untrained
    with torch.no_grad():
        return other.train()(samples)


@pytest.fixture(scope="module")
def plain(built):
    return losses_of(built)


@pytest.mark.parametrize("mode", ["instance_ce", "hist_ce"])
@pytest.mark.parametrize("apply_to", [["semantic"], ["center", "offset"]])
def test_the_weights_reach_the_losses_that_are_named(built, plain, mode, apply_to):
    weighted = losses_of(built, MODE=mode, APPLY_TO=apply_to, CONSISTENCY=1.0)
    names = {"semantic": "loss_sem_seg", "center": "loss_center", "offset": "loss_offset"}
    for name, loss in names.items():
        assert torch.isfinite(weighted[loss])
        assert bool(weighted[loss] != plain[loss]) == (name in apply_to)


def test_none_leaves_out_the_weights_of_small_objects(built, plain):
    cfg, model, samples = built
    without = [{key: value for key, value in one.items() if key != "sem_seg_weights"} for one in samples]
    none = losses_of(built, MODE="none")
    assert none["loss_sem_seg"] == losses_of((cfg, model, without))["loss_sem_seg"]
    assert none["loss_sem_seg"] != plain["loss_sem_seg"]


def test_wrong_keys_and_missing_targets_are_named(built):
    cfg, model, samples = built
    for key, value in (("MODE", "loud"), ("APPLY_TO", ["boundary"]), ("TAU", 0.0)):
        with pytest.raises(ConfigError, match="INSTANCE_WEIGHT"):
            losses_of(built, **{key: value})
    without = [{key: value for key, value in one.items() if key != "instance_ids"} for one in samples]
    with pytest.raises(ConfigError, match="instance_ids"):
        losses_of((cfg, model, without), MODE="instance_ce")
