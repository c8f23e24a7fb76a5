"""The two-way pyramid of EfficientPS, against its sums written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from panoptic_plugin.backbones.two_way_fpn import TwoWayFPN, build_timm_two_way_fpn_backbone
from panoptic_plugin.config import get_cfg
from panoptic_plugin.errors import ConfigError

NAMES = ("res2", "res3", "res4", "res5")


class Encoder(Backbone):
    """Features of given channels that the test makes itself."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self._out_features = list(NAMES)

    def forward(self, features):
        return features

    def output_shape(self):
        return {
            name: ShapeSpec(channels=channels, stride=4 * 2**level)
            for level, (name, channels) in enumerate(zip(NAMES, self.channels, strict=True))
        }

    @property
    def size_divisibility(self):
        return 32


def _features(height: int, width: int, channels: int = 2) -> dict[str, torch.Tensor]:
    """Odd sizes are halved and rounded up, as encoders do."""
    features = {}
    for name in NAMES:
        features[name] = torch.rand(1, channels, height, width) + 0.1
        height, width = -(-height // 2), -(-width // 2)
    return features


def _identity(convs: nn.ModuleList) -> None:
    for conv in convs:
        nn.init.dirac_(conv.weight)


def _nearest(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows = np.arange(shape[-2]) * array.shape[-2] // shape[-2]
    columns = np.arange(shape[-1]) * array.shape[-1] // shape[-1]
    return array[..., rows[:, None], columns]


@pytest.mark.parametrize(("out_conv", "expected"), [("dwsep", 1_471_488), ("conv", 3_557_376)])
def test_parameters(out_conv, expected):
    with torch.device("meta"):
        fpn = TwoWayFPN(bottom_up=Encoder((40, 64, 176, 2048)), in_features=NAMES, out_conv=out_conv)
    assert sum(parameter.numel() for parameter in fpn.parameters()) == expected


@pytest.mark.parametrize("size", [(16, 32), (25, 43), (24, 40)])
def test_levels_are_the_cascading_sums_of_both_ways(size):
    fpn = TwoWayFPN(bottom_up=Encoder((2, 2, 2, 2)), in_features=NAMES, out_channels=2, out_conv="conv").eval()
    for convs in (fpn.top_down, fpn.bottom_up_again, fpn.outputs):
        _identity(convs)
    features = _features(*size)
    found = fpn(features)
    coarse = [features[name].numpy() for name in NAMES]
    fine = [array.copy() for array in coarse]
    for level in (2, 1, 0):
        coarse[level] = coarse[level] + _nearest(coarse[level + 1], coarse[level].shape)
    for level in (1, 2, 3):
        fine[level] = fine[level] + _nearest(fine[level - 1], fine[level].shape)
    for level, (one, other) in enumerate(zip(coarse, fine, strict=True), start=2):
        # Batch norms in evaluation divide by sqrt(1 + 1e-5): one after the lateral, one after the output.
        expected = (one + other) / (1 + 1e-5)
        np.testing.assert_allclose(found[f"p{level}"].detach().numpy(), expected, rtol=1e-5)


def test_each_end_reaches_the_other():
    fpn = TwoWayFPN(bottom_up=Encoder((3, 3, 3, 3)), in_features=NAMES, out_channels=4).eval()
    features = _features(32, 32, 3)
    before = fpn(features)
    for changed, reached in (("res2", "p5"), ("res5", "p2")):
        after = fpn({**features, changed: features[changed] + 1})
        assert not torch.equal(before[reached], after[reached])


def test_convolutions_have_no_bias_and_a_leaky_activation():
    fpn = TwoWayFPN(bottom_up=Encoder((3, 3, 3, 3)), in_features=NAMES, out_channels=4).eval()
    assert not [name for name, _ in fpn.named_parameters() if name.endswith("bias") and "norm" not in name]
    lateral = fpn.top_down[0]
    with torch.no_grad():
        negative = lateral.norm(nn.functional.conv2d(torch.ones(1, 3, 1, 1), lateral.weight))
        torch.testing.assert_close(lateral(torch.ones(1, 3, 1, 1)), nn.functional.leaky_relu(negative, 0.01))


def test_top_block_takes_every_other_pixel():
    fpn = TwoWayFPN(
        bottom_up=Encoder((3, 3, 3, 3)), in_features=NAMES, out_channels=4, top_block=LastLevelMaxPool()
    ).eval()
    found = fpn(_features(64, 64, 3))
    assert torch.equal(found["p6"], found["p5"][:, :, ::2, ::2])
    assert {name: shape.stride for name, shape in fpn.output_shape().items()} == {
        "p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64
    }  # fmt: skip


def test_from_config():
    cfg = get_cfg()
    cfg.MODEL.TIMM.NAME, cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.TWO_WAY_FPN.OUT_CHANNELS = "efficientnet_lite0", 0, 32
    backbone = build_timm_two_way_fpn_backbone(cfg, ShapeSpec(channels=3)).eval()
    assert backbone.size_divisibility == 32
    features = backbone(torch.zeros(1, 3, 64, 96))
    for name, shape in backbone.output_shape().items():
        assert features[name].shape == (1, 32, 64 // shape.stride, -(-96 // shape.stride))


def test_unknown_values():
    with pytest.raises(ConfigError, match="TWO_WAY_FPN.OUT_CONV is 'full', expected one of dwsep, conv"):
        TwoWayFPN(bottom_up=Encoder((3, 3, 3, 3)), in_features=NAMES, out_conv="full")
    with pytest.raises(ConfigError, match="TWO_WAY_FPN.NORM is 'Bn', expected one of BN, "):
        TwoWayFPN(bottom_up=Encoder((3, 3, 3, 3)), in_features=NAMES, norm="Bn")
    cfg = get_cfg()
    cfg.MODEL.TWO_WAY_FPN.TOP_BLOCK = "max"
    with pytest.raises(ConfigError, match="TWO_WAY_FPN.TOP_BLOCK is 'max', expected one of maxpool, none"):
        build_timm_two_way_fpn_backbone(cfg, ShapeSpec(channels=3))
