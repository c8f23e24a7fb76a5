from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from panoptic_plugin.backbones.xception import SeparableConv, Xception65, XceptionBlock
from panoptic_plugin.config import get_cfg
from panoptic_plugin.errors import ConfigError

FEATURES = ["res2", "res3", "res4", "res5"]
NORM = {"norm": "BN", "bn_eps": 1e-5}


def _config(**resnets):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "d2_xception_65", 0
    cfg.MODEL.RESNETS.NORM = "BN"
    for key, value in resnets.items():
        setattr(cfg.MODEL.RESNETS, key, value)
    return cfg


def _on_meta(cfg, channels: int = 3):
    with torch.device("meta"):
        return build_backbone(cfg, ShapeSpec(channels=channels))


@pytest.mark.parametrize(
    "dilations, strides",
    [
        ((1, 1), (4, 8, 16, 32)),
        ((1, 2), (4, 8, 16, 16)),
        ((2, 4), (4, 8, 8, 8)),
    ],
)
def test_features_have_the_declared_channels_and_strides_at_an_odd_size(dilations, strides, size=(61, 131)):
    backbone = _on_meta(_config(RES4_DILATION=dilations[0], RES5_DILATION=dilations[1], OUT_FEATURES=FEATURES))
    features = backbone(torch.empty(1, 3, *size, device="meta"))
    for name, channels, stride in zip(FEATURES, (256, 728, 728, 2048), strides, strict=True):
        expected = (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert tuple(features[name].shape) == expected
        assert backbone.output_shape()[name] == ShapeSpec(channels=channels, stride=stride)
    assert backbone.size_divisibility == 32


def test_only_the_features_asked_for_come_out():
    backbone = _on_meta(_config(OUT_FEATURES=["res2", "res4"]))
    assert list(backbone(torch.empty(1, 3, 32, 32, device="meta"))) == ["res2", "res4"]
    assert list(backbone.output_shape()) == ["res2", "res4"]


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN", "FrozenBN", "naiveSyncBN"])
def test_every_norm_builds(norm):
    backbone = _on_meta(_config(NORM=norm, BN_EPS=1e-3))
    assert backbone.block5.sep_conv1.block.bn_depth.weight.shape == (728,)
    if norm != "GN":
        assert backbone.bn1.eps == 1e-3


def test_network_runs_on_real_numbers_with_finite_gradients():
    block = XceptionBlock(channels=(4, 6, 6, 8), stride=2, **NORM)
    outer, inner = block(torch.randn(2, 4, 9, 11))
    outer.sum().backward()
    assert outer.shape == (2, 8, 5, 6) and inner.shape == (2, 6, 9, 11)
    assert all(p.grad.isfinite().all() for p in block.parameters())


def test_input_of_a_block_is_not_overwritten():
    x = torch.randn(1, 4, 8, 8)
    before = x.clone()
    XceptionBlock(channels=(4, 4, 4, 4), shortcut="sum", **NORM).eval()(x)
    assert torch.equal(x, before)


def test_shortcut_sum_adds_the_input_without_relu():
    block = XceptionBlock(channels=(4, 4, 4, 4), shortcut="sum", **NORM).eval()
    nn.init.zeros_(block.sep_conv3.block.pointwise.weight)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(block(x)[0], x)


@pytest.mark.parametrize(
    "relu_first, order",
    [
        (True, ["relu", "depthwise", "bn_depth", "pointwise", "bn_point"]),
        (False, ["depthwise", "bn_depth", "relu1", "pointwise", "bn_point", "relu2"]),
    ],
)
def test_place_of_the_relus(relu_first, order):
    conv = SeparableConv(in_channels=2, out_channels=3, stride=1, dilation=2, relu_first=relu_first, **NORM)
    assert [name for name, _ in conv.block.named_children()] == order
    assert conv.block.depthwise.padding == conv.block.depthwise.dilation == (2, 2)


@pytest.mark.parametrize(
    "resnets, message",
    [
        ({"RES5_DILATION": 4}, "RES4_DILATION and RES5_DILATION are 1 and 4"),
        ({"RES4_DILATION": 2}, "output stride 8"),
        ({"OUT_FEATURES": ["res5", "stem"]}, "OUT_FEATURES"),
        ({"OUT_FEATURES": []}, "OUT_FEATURES"),
        ({"NORM": ""}, "MODEL.RESNETS.NORM"),
    ],
)
def test_impossible_configs_name_the_key(resnets, message):
    with pytest.raises(ConfigError, match=message):
        _on_meta(_config(**resnets))


def test_impossible_output_stride_is_refused():
    with pytest.raises(ConfigError, match="expected 32, 16 or 8"):
        Xception65(output_stride=4)


def test_freezing_the_stem_and_first_stage():
    cfg = _config()
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    backbone = _on_meta(cfg)
    assert isinstance(backbone.bn1, FrozenBatchNorm2d) and isinstance(backbone.block2.bn, FrozenBatchNorm2d)
    assert not backbone.conv1.weight.requires_grad and not backbone.block1.conv.weight.requires_grad
    assert backbone.block3.conv.weight.requires_grad and isinstance(backbone.block3.bn, nn.BatchNorm2d)
    cfg.MODEL.BACKBONE.FREEZE_AT = 6
    with pytest.raises(ConfigError, match="FREEZE_AT is 6"):
        _on_meta(cfg)


def test_other_numbers_of_input_channels():
    assert _on_meta(_config(), channels=4).conv1.weight.shape == (32, 4, 3, 3)
