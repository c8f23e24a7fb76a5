"""Building a model: names, devices, batch norms."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from tiny_training import write_config
from torch import nn

from panoptic_plugin import load_config
from panoptic_plugin.engine.model import build_model, check_device, share_buffers, unwrap, wrap_distributed
from panoptic_plugin.errors import ConfigError


@pytest.fixture
def cfg(tmp_path):
    return load_config(write_config(tmp_path))


@pytest.mark.parametrize(
    "key, closest",
    [
        ("MODEL.META_ARCHITECTURE", "PluginPanopticDeepLab"),
        ("MODEL.BACKBONE.NAME", "d2_hrnet"),
        ("MODEL.SEM_SEG_HEAD.NAME", "PluginPanopticDeepLabSemSegHead"),
    ],
)
def test_wrong_registry_names_name_the_key_and_the_closest(cfg, key, closest):
    cfg.merge_from_list([key, closest[:-1]])
    with pytest.raises(ConfigError, match=f"{key} is '{closest[:-1]}'.*Did you mean '{closest}'"):
        build_model(cfg)


def test_sync_batch_norm_trains_on_a_cpu_with_the_same_keys(cfg):
    model = build_model(cfg)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {NaiveSyncBatchNorm}
    for section in ("RESNETS", "SEM_SEG_HEAD", "INS_EMBED_HEAD"):
        cfg.MODEL[section].NORM = "BN"
    assert set(build_model(cfg).state_dict()) == set(model.state_dict())


def test_devices_that_are_not_there(monkeypatch):
    check_device("cpu")
    with pytest.raises(ConfigError, match="MODEL.DEVICE is 'gpu'"):
        check_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="set MODEL.DEVICE cpu"):
        check_device("cuda")


def test_one_process_needs_no_wrapping():
    model = nn.Linear(1, 1)
    assert wrap_distributed(model) is model
    assert unwrap(model) is model
    share_buffers(model)
