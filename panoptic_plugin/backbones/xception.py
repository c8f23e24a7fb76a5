"""Xception-65 as DeepLab uses it: ``d2_xception_65``.

Source: Xception (https://arxiv.org/abs/1610.02357) in the aligned form of DeepLabV3+
(https://arxiv.org/abs/1802.02611, figure 4). Module names are those of the published Panoptic-DeepLab models and of
SegmenTron's ImageNet weights, so either loads without renaming.

Shape legend: N images, 3 input channels, H x W pixels. res2 (N, 256, H/4, W/4) and res3 (N, 728, H/8, W/8) are taken
inside block2 and block3, before their strided convolution and without their shortcut; res4 (N, 728) follows block19
and res5 (N, 2048) block21. Sizes are rounded up, so any H and W will do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from panoptic_plugin.backbones.config import with_backbone_keys
from panoptic_plugin.backbones.stages import check_out_features, freeze_stages
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import init_conv, make_norm

# (MODEL.RESNETS.RES4_DILATION, RES5_DILATION) -> output stride
OUTPUT_STRIDES = {(1, 1): 32, (1, 2): 16, (2, 4): 8}
# output stride -> stride of block3, dilation of blocks 4 to 19, stride and dilation of block20, dilation of block21
LAYOUTS = {32: (2, 1, 2, 1, 1), 16: (2, 1, 1, 1, 2), 8: (1, 2, 1, 2, 4)}
CHANNELS = {"res2": 256, "res3": 728, "res4": 728, "res5": 2048}
LAST_BLOCK = 21
# feature -> (number of the block, whether it is taken inside the block, after its second convolution)
TAPS = {"res2": (2, True), "res3": (3, True), "res4": (19, False), "res5": (LAST_BLOCK, False)}
STAGES = (
    ("conv1", "bn1", "conv2", "bn2"),
    ("block1", "block2"),
    ("block3",),
    tuple(f"block{number}" for number in range(4, 20)),
    ("block20", "block21"),
)


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise 1x1 convolution, each with a norm; ReLUs before both or after each."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        stride: int,
        dilation: int,
        relu_first: bool,
        norm: str,
        bn_eps: float,
    ) -> None:
        super().__init__()
        depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        convs = [
            ("depthwise", init_conv(depthwise)),
            ("bn_depth", make_norm(norm, in_channels, eps=bn_eps)),
            ("pointwise", init_conv(pointwise)),
            ("bn_point", make_norm(norm, out_channels, eps=bn_eps)),
        ]
        if relu_first:  # not in place: the input is also the shortcut's, or a feature
            layers = [("relu", nn.ReLU()), *convs]
        else:
            layers = [*convs[:2], ("relu1", nn.ReLU(inplace=True)), *convs[2:], ("relu2", nn.ReLU(inplace=True))]
        self.block = nn.Sequential(OrderedDict(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class XceptionBlock(nn.Module):
    """Three separable convolutions, the last one strided, plus a shortcut; no ReLU after the sum.

    Args:
        channels: of the input and after each of the three convolutions.
        stride: of the block; it sits in the third depthwise convolution and in the shortcut.
        dilation: of all three depthwise convolutions.
        shortcut: "conv" (1x1 convolution and norm), "sum" (the input itself) or "none".
        relu_first: see :class:`SeparableConv`.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        stride: int = 1,
        dilation: int = 1,
        shortcut: str = "conv",
        relu_first: bool = True,
        norm: str,
        bn_eps: float,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        if shortcut == "conv":
            self.conv = init_conv(nn.Conv2d(channels[0], channels[-1], 1, stride=stride, bias=False))
            self.bn = make_norm(norm, channels[-1], eps=bn_eps)
        common: dict[str, Any] = {"dilation": dilation, "relu_first": relu_first, "norm": norm, "bn_eps": bn_eps}
        self.sep_conv1 = SeparableConv(in_channels=channels[0], out_channels=channels[1], stride=1, **common)
        self.sep_conv2 = SeparableConv(in_channels=channels[1], out_channels=channels[2], stride=1, **common)
        self.sep_conv3 = SeparableConv(in_channels=channels[2], out_channels=channels[3], stride=stride, **common)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, channels[0], H, W) to the block's output and its inner feature, the one before the stride."""
        inner = self.sep_conv2(self.sep_conv1(x))
        outer = self.sep_conv3(inner)
        if self.shortcut == "conv":
            outer = outer + self.bn(self.conv(x))
        elif self.shortcut == "sum":
            outer = outer + x
        return outer, inner


class Xception65(Backbone):
    """Xception-65: 792 state-dict keys and 37.867 M parameters with batch norms.

    All 21 blocks exist whatever ``out_features`` says; those after the deepest feature are not run.

    Args:
        in_channels: of the image.
        out_features: names out of res2, res3, res4, res5.
        output_stride: 32, 16 (dilated block21, as in all published models) or 8 (dilated from block4 on).
        norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
        bn_eps: of the batch norms.
        freeze_at: 1 freezes the stem, 2 also block1 and block2, 3 block3, 4 blocks 4 to 19, 5 all.

    Raises:
        ConfigError: an unknown feature, norm or output stride.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_features: Sequence[str] = ("res5",),
        output_stride: int = 16,
        norm: str = "BN",
        bn_eps: float = 1e-5,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if output_stride not in LAYOUTS:
            raise ConfigError(f"the output stride of Xception-65 is {output_stride}, expected 32, 16 or 8")
        self._out_features = check_out_features(out_features, "d2_xception_65")
        self._out_feature_channels = CHANNELS
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": min(16, output_stride), "res5": output_stride}
        self.conv1 = init_conv(nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False))
        self.bn1 = make_norm(norm, 32, eps=bn_eps)
        self.conv2 = init_conv(nn.Conv2d(32, 64, 3, padding=1, bias=False))
        self.bn2 = make_norm(norm, 64, eps=bn_eps)
        for number, arguments in _block_arguments(output_stride).items():
            setattr(self, f"block{number}", XceptionBlock(**arguments, norm=norm, bn_eps=bn_eps))
        freeze_stages(self, STAGES, freeze_at)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict[str, Any]:
        cfg = with_backbone_keys(cfg)
        resnets = cfg.MODEL.RESNETS
        dilations = (resnets.RES4_DILATION, resnets.RES5_DILATION)
        if dilations not in OUTPUT_STRIDES:
            known = "; ".join(f"{a} and {b} (output stride {s})" for (a, b), s in OUTPUT_STRIDES.items())
            raise ConfigError(
                f"MODEL.RESNETS.RES4_DILATION and RES5_DILATION are {dilations[0]} and {dilations[1]}, "
                f"expected for d2_xception_65: {known}"
            )
        return {
            "in_channels": input_shape.channels,
            "out_features": resnets.OUT_FEATURES,
            "output_stride": OUTPUT_STRIDES[dilations],
            "norm": resnets.NORM,
            "bn_eps": resnets.BN_EPS,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, C, H, W), normalised floats, to the features by name; shapes are in the module's legend."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        features = {}
        wanted = {TAPS[name][0]: (name, TAPS[name][1]) for name in self._out_features}
        for number in range(1, max(wanted) + 1):
            x, inner = getattr(self, f"block{number}")(x)
            if number in wanted:
                name, inside = wanted[number]
                features[name] = inner if inside else x
        return features


def _block_arguments(output_stride: int) -> dict[int, dict[str, Any]]:
    """Block number -> arguments of :class:`XceptionBlock`: entry flow 1 to 3, middle flow 4 to 19, exit flow 20, 21."""
    stride3, middle_dilation, stride20, dilation20, dilation21 = LAYOUTS[output_stride]
    blocks: dict[int, dict[str, Any]] = {
        1: {"channels": (64, 128, 128, 128), "stride": 2},
        2: {"channels": (128, 256, 256, 256), "stride": 2},
        3: {"channels": (256, 728, 728, 728), "stride": stride3},
    }
    for number in range(4, 20):
        blocks[number] = {"channels": (728, 728, 728, 728), "dilation": middle_dilation, "shortcut": "sum"}
    blocks[20] = {"channels": (728, 728, 1024, 1024), "stride": stride20, "dilation": dilation20}
    blocks[21] = {"channels": (1024, 1536, 1536, 2048), "dilation": dilation21, "shortcut": "none", "relu_first": False}
    return blocks


@BACKBONE_REGISTRY.register()
def d2_xception_65(cfg, input_shape: ShapeSpec) -> Xception65:
    """MODEL.BACKBONE.NAME ``d2_xception_65``: :class:`Xception65` from MODEL.RESNETS."""
    return Xception65(cfg, input_shape)
