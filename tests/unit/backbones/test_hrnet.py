from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.backbones.hrnet import HighResolutionModule, HRNet, NormTable
from panoptic_plugin.config import get_cfg
from panoptic_plugin.errors import ConfigError

FEATURES = ["res2", "res3", "res4", "res5"]
SMALL = {"width": 4, "modules": (1, 1, 1), "blocks": 1}


def _config(**resnets):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "d2_hrnet", 0
    cfg.MODEL.RESNETS.update(NORM="BN", DEPTH=4, OUT_FEATURES=FEATURES)
    cfg.MODEL.HRNET.MODULES, cfg.MODEL.HRNET.BLOCKS = [1, 1, 1], 1
    cfg.MODEL.RESNETS.update(resnets)
    return cfg


@pytest.mark.parametrize("size", [(64, 128), (61, 131), (33, 32)])
def test_features_have_the_declared_channels_and_strides(size):
    backbone = build_backbone(_config(), ShapeSpec(channels=3)).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, *size))
    for branch, name in enumerate(FEATURES):
        channels, stride = 4 << branch, 4 << branch
        assert tuple(features[name].shape) == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert backbone.output_shape()[name] == ShapeSpec(channels=channels, stride=stride)
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN", "FrozenBN", "naiveSyncBN"])
def test_every_norm_runs(norm):
    backbone = HRNet(**SMALL, norm=norm, out_features=["res5"]).eval()
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["res5"]


def test_gradients_reach_every_parameter():
    backbone = HRNet(**SMALL)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_branches_are_fused_by_bilinear_upsampling_with_aligned_corners():
    module = HighResolutionModule((4, 8), 1, NormTable("BN", 1e-5)).eval()
    high, low = torch.randn(1, 4, 9, 7), torch.randn(1, 8, 5, 4)
    with torch.no_grad():
        fused = module([high, low])[0]
        high, low = module.branches[0](high), module.branches[1](low)
        up = F.interpolate(module.fuse_layers[0][1](low), size=(9, 7), mode="bilinear", align_corners=True)
    assert torch.equal(fused, F.relu(high + up))


@pytest.mark.parametrize("width, parameters", [(18, 9_562_260), (32, 29_305_536), (48, 65_325_120)])
def test_parameter_counts_of_the_published_widths(width, parameters):
    with torch.device("meta"):
        backbone = HRNet(width=width)
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_a_depth_of_a_resnet_is_not_taken_for_a_width():
    with pytest.raises(ConfigError, match="DEPTH is 50, the depth of a ResNet; .* set 18, 32 or 48"):
        build_backbone(_config(DEPTH=50), ShapeSpec(channels=3))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"modules": (1, 4)}, {"modules": (1, 0, 3)}, {"blocks": 0}])
def test_impossible_numbers_name_the_keys(arguments):
    with pytest.raises(ConfigError, match="MODEL.HRNET.MODULES"):
        HRNet(**{**SMALL, **arguments})


def test_unknown_feature_is_refused():
    with pytest.raises(ConfigError, match="OUT_FEATURES"):
        HRNet(**SMALL, out_features=["res6"])


def test_freezing_the_stem_and_layer1():
    backbone = HRNet(**SMALL, freeze_at=2)
    assert isinstance(backbone.bn1, FrozenBatchNorm2d) and isinstance(backbone.layer1[0].bn1, FrozenBatchNorm2d)
    assert not any(p.requires_grad for p in backbone.layer1.parameters())
    assert all(p.requires_grad for p in backbone.stage2.parameters())
    assert isinstance(backbone.transition1[0][1], nn.BatchNorm2d)


def test_detectron2_resnets_build_beside_ours():
    import detectron2.projects.deeplab  # noqa: F401

    cfg = _config(DEPTH=50, STEM_TYPE="deeplab", STEM_OUT_CHANNELS=128, RES5_DILATION=2, RES5_MULTI_GRID=[1, 2, 4])
    cfg.MODEL.BACKBONE.NAME = "build_resnet_deeplab_backbone"
    with torch.device("meta"):
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
    features = backbone(torch.empty(1, 3, 64, 64, device="meta"))
    assert [tuple(features[name].shape[1:]) for name in FEATURES] == [
        (256, 16, 16),
        (512, 8, 8),
        (1024, 4, 4),
        (2048, 4, 4),
    ]
