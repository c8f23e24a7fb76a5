"""Building a model: names, devices, batch norms."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from tiny_training import write_config
from torch import nn

from panoptic_plugin import load_config
from panoptic_plugin.engine.model import (
    build_model,
    check_device,
    compile_parts,
    prepare_for_training,
    share_buffers,
    unwrap,
    wrap_distributed,
)
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


@pytest.mark.parametrize(("processes", "kind"), [(1, nn.BatchNorm2d), (2, NaiveSyncBatchNorm)])
def test_sync_batch_norm_is_there_only_where_it_is_needed_with_the_same_keys(cfg, monkeypatch, processes, kind):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    model = build_model(cfg)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {kind}
    for section in ("RESNETS", "SEM_SEG_HEAD", "INS_EMBED_HEAD"):
        cfg.MODEL[section].NORM = "BN"
    assert set(build_model(cfg).state_dict()) == set(model.state_dict())


def conv_model():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())


def test_training_in_channels_last_keeps_keys_and_values(cfg):
    cfg.MODEL.CHANNELS_LAST = True
    model = conv_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = prepare_for_training(cfg, model)
    assert found[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not found[0].weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
    assert found(torch.rand(1, 2, 8, 8)).is_contiguous(memory_format=torch.channels_last)


def test_a_model_is_compiled_in_its_parts_under_the_same_keys(cfg, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **arguments: function)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **arguments: compiled.append((module, arguments)))
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    cfg.MODEL.COMPILE.ENABLED = True
    model = conv_model()
    keys = list(model.state_dict())
    assert prepare_for_training(cfg, model) is model
    assert [module for module, _ in compiled] == list(model)
    assert compiled[0][1] == {"mode": "default"} and list(model.state_dict()) == keys
    assert torch._dynamo.config.suppress_errors


def test_a_model_runs_as_it_is_where_compiling_does_not_work(monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    with caplog.at_level("WARNING"):
        assert not compile_parts(conv_model(), mode="default")
    assert "torch.compile does not work here (no C++ compiler); the model runs without it" in caplog.text
    with pytest.raises(ConfigError, match="MODEL.COMPILE.MODE is 'fast'"):
        compile_parts(conv_model(), mode="fast")


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
