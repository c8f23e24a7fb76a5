"""The two-way feature pyramid of EfficientPS (https://arxiv.org/abs/2004.02307, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.backbones.config import with_backbone_keys
from panoptic_plugin.backbones.efficientnet import NAMES, build_timm_backbone
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.convolutions import conv_norm, leaky_relu, separable_conv_norm
from panoptic_plugin.layers.norm import NORMS

OUT_CONVS = ("dwsep", "conv")
TOP_BLOCKS = ("maxpool", "none")


class TwoWayFPN(Backbone):
    """One pyramid from coarse to fine and one from fine to coarse, added; features p2, p3, ... and the top block's.

    ``T`` and ``U`` are 1 x 1 convolutions of each feature. ``T`` of a level gets the enlarged ``T`` of the coarser one
    added, ``U`` the reduced ``U`` of the finer one, both by their nearest pixels; the result is a 3 x 3 convolution of
    ``T + U``. All convolutions have no bias, a norm and a leaky ReLU.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int = 256,
        norm: str = "BN",
        out_conv: str = "dwsep",
        top_block: nn.Module | None = None,
    ) -> None:
        """
        Args:
            bottom_up: the encoder.
            in_features: its features, from fine to coarse.
            out_channels: of all results.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            out_conv: the 3 x 3 convolutions: "dwsep", depthwise separable, as in the paper; "conv", as in the released
                code.
            top_block: Detectron2's, for more and coarser levels.

        Raises:
            ConfigError: an unknown ``out_conv`` or ``norm``.
        """
        super().__init__()
        _check_values({"OUT_CONV": (out_conv, OUT_CONVS), "NORM": (norm, NORMS)})
        shapes = bottom_up.output_shape()
        self.bottom_up = bottom_up
        self.in_features = list(in_features)
        channels = [shapes[name].channels for name in in_features]
        kind: dict[str, Any] = {"norm": norm, "activation": leaky_relu}
        self.top_down = nn.ModuleList(conv_norm(one, out_channels, 1, **kind) for one in channels)
        self.bottom_up_again = nn.ModuleList(conv_norm(one, out_channels, 1, **kind) for one in channels)
        make = conv_norm if out_conv == "conv" else separable_conv_norm
        self.outputs = nn.ModuleList(make(out_channels, out_channels, 3, **kind) for _ in channels)
        self.top_block = top_block
        strides = [shapes[name].stride for name in in_features]
        self._shapes = {
            f"p{stride.bit_length() - 1}": ShapeSpec(channels=out_channels, stride=stride) for stride in strides
        }
        for _ in range(top_block.num_levels if top_block is not None else 0):
            stride = 2 * list(self._shapes.values())[-1].stride
            self._shapes[f"p{stride.bit_length() - 1}"] = ShapeSpec(channels=out_channels, stride=stride)
        self._out_features = list(self._shapes)
        for part in (self.top_down, self.bottom_up_again, self.outputs):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Float (N, 3, H, W) to float (N, out_channels, H / stride, W / stride) by name."""
        return self.fuse(self.bottom_up(images))

    def fuse(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The pyramid of the encoder's features, by the names of both."""
        encoded = [features[name] for name in self.in_features]
        coarse = [conv(one) for conv, one in zip(self.top_down, encoded, strict=True)]
        fine = [conv(one) for conv, one in zip(self.bottom_up_again, encoded, strict=True)]
        for level in reversed(range(len(coarse) - 1)):
            coarse[level] = coarse[level] + _resized(coarse[level + 1], coarse[level])
        for level in range(1, len(fine)):
            fine[level] = fine[level] + _resized(fine[level - 1], fine[level])
        results = [conv(one + other) for conv, one, other in zip(self.outputs, coarse, fine, strict=True)]
        if self.top_block is not None:
            results.extend(self.top_block(results[-1]))
        return dict(zip(self._shapes, results, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility


def _check_values(values: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    for key, (found, known) in values.items():
        if found not in known:
            raise ConfigError(f"MODEL.TWO_WAY_FPN.{key} is {found!r}, expected one of {', '.join(known)}")


def _resized(features: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="nearest")


@BACKBONE_REGISTRY.register()
def build_timm_two_way_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TwoWayFPN:
    """The encoder of ``MODEL.TIMM`` under the pyramid of ``MODEL.TWO_WAY_FPN``, features p2 to p6."""
    cfg = with_backbone_keys(cfg)
    keys = cfg.MODEL.TWO_WAY_FPN
    _check_values({"TOP_BLOCK": (keys.TOP_BLOCK, TOP_BLOCKS)})
    return TwoWayFPN(
        bottom_up=build_timm_backbone(cfg, input_shape),
        in_features=NAMES,
        out_channels=keys.OUT_CHANNELS,
        norm=keys.NORM,
        out_conv=keys.OUT_CONV,
        top_block=LastLevelMaxPool() if keys.TOP_BLOCK == "maxpool" else None,
    )
