"""The layers of SOLOv2 (https://arxiv.org/abs/2003.10152): what there is in a grid cell, and the kernel of its mask.

Shapes: N images, C thing classes, L levels of S x S cells, E numbers of a kernel; H x W pixels of the padded input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.convolutions import conv_norm, separable_conv_norm

CONVOLUTIONS = ("standard", "dwsep")
_MASK_STRIDE = 4


@dataclass(frozen=True)
class SOLOv2Outputs:
    """What the head says of a batch; cells are numbered level by level and row by row.

    Attributes:
        category_logits: float (N, cells, C).
        kernels: float (N, cells, E).
        mask_features: float (N, E, H / 4, W / 4). The mask logits of a cell are their product with its kernel.
    """

    category_logits: torch.Tensor
    kernels: torch.Tensor
    mask_features: torch.Tensor


class SOLOv2Head(nn.Module):
    """Category tower, kernel tower and unified mask branch."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        in_features: Sequence[str],
        mask_in_features: Sequence[str],
        num_classes: int,
        num_grids: Sequence[int],
        channels: int = 512,
        num_convs: int = 4,
        num_kernels: int = 256,
        mask_channels: int = 128,
        norm: str = "GN",
        conv: str = "standard",
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            input_shape: of the features.
            in_features: L levels for the towers, from fine to coarse; the finest is halved and the coarsest brought to
                the size of the one before it.
            mask_in_features: levels for the mask branch, from stride 4 on, each half as large as the one before.
            num_classes: C.
            num_grids: S of each level.
            channels, num_convs: width and depth of a tower.
            num_kernels: E.
            mask_channels: width of the mask branch.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            conv: convolutions of towers and mask branch, one of :data:`CONVOLUTIONS`.
            prior_prob: probability of each class to start with.

        Raises:
            ConfigError: levels that do not fit the features or the grids.
        """
        super().__init__()
        _check_levels(input_shape, in_features, mask_in_features, num_grids, conv)
        self.in_features, self.mask_in_features = list(in_features), list(mask_in_features)
        self.num_classes = num_classes
        self.num_grids = list(num_grids)
        width = input_shape[in_features[0]].channels
        tower = {"channels": channels, "num_convs": num_convs, "norm": norm, "conv": conv}
        self.category_tower = _tower(width, **tower)
        self.kernel_tower = _tower(width + 2, **tower)
        self.category_predictor = Conv2d(channels, num_classes, 3, padding=1)
        self.kernel_predictor = Conv2d(channels, num_kernels, 3, padding=1)
        mask_width = input_shape[mask_in_features[0]].channels
        self.mask_branch = MaskBranch(mask_width, mask_channels, num_kernels, len(mask_in_features), norm, conv)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        for predictor, bias in ((self.category_predictor, -math.log(1 / prior_prob - 1)), (self.kernel_predictor, 0.0)):
            nn.init.constant_(predictor.bias, bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        solo = cfg.MODEL.SOLOV2
        return {
            "input_shape": input_shape,
            "in_features": solo.IN_FEATURES,
            "mask_in_features": solo.MASK_IN_FEATURES,
            "num_classes": solo.NUM_CLASSES,
            "num_grids": solo.NUM_GRIDS,
            "channels": solo.CHANNELS,
            "num_convs": solo.NUM_CONVS,
            "num_kernels": solo.NUM_KERNELS,
            "mask_channels": solo.MASK_CHANNELS,
            "norm": solo.NORM,
            "conv": solo.CONV,
            "prior_prob": solo.PRIOR_PROB,
        }

    def forward(self, features: Mapping[str, torch.Tensor]) -> SOLOv2Outputs:
        """
        Args:
            features: float (N, width, H / stride, W / stride) by name.
        """
        categories, kernels = [], []
        for level, num_grid in zip(self._levels(features), self.num_grids, strict=True):
            located = F.interpolate(with_coordinates(level), size=(num_grid, num_grid), mode="bilinear")
            kernels.append(self.kernel_predictor(self.kernel_tower(located)).flatten(2))
            categories.append(self.category_predictor(self.category_tower(located[:, :-2])).flatten(2))
        return SOLOv2Outputs(
            category_logits=torch.cat(categories, dim=2).transpose(1, 2),
            kernels=torch.cat(kernels, dim=2).transpose(1, 2),
            mask_features=self.mask_branch([features[name] for name in self.mask_in_features]),
        )

    def _levels(self, features: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        levels = [features[name] for name in self.in_features]
        if len(levels) > 1:
            finest = levels[0].shape[-2:]
            halved = [max(length // 2, 1) for length in finest]
            levels[0] = F.interpolate(levels[0], size=halved, mode="bilinear")
            levels[-1] = F.interpolate(levels[-1], size=levels[-2].shape[-2:], mode="bilinear")
        return levels


class MaskBranch(nn.Module):
    """All levels enlarged to stride 4 by steps of two, and added; the coarsest knows where its pixels are."""

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, num_levels: int, norm: str, conv: str = "standard"
    ) -> None:
        """
        Args:
            in_channels: of each level.
            channels: inside.
            out_channels: of the result.
            num_levels: from stride 4 on.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            conv: of 3 x 3 pixels, one of :data:`CONVOLUTIONS`.
        """
        super().__init__()
        make = MAKERS[conv]
        self.levels = nn.ModuleList()
        for level in range(num_levels):
            located = 2 if level == num_levels - 1 and level else 0
            widths = [in_channels + located] + [channels] * max(level, 1)
            self.levels.append(nn.ModuleList(make(first, second, 3, norm=norm) for first, second in _pairs(widths)))
        self.out = conv_norm(channels, out_channels, 1, norm=norm, activation=F.relu)

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            levels: float (N, in_channels, H / 4 / 2^i, W / 4 / 2^i) for i = 0, 1, ...

        Returns:
            Float (N, out_channels, H / 4, W / 4).
        """
        total = self.levels[0][0](levels[0])
        for number, (convs, level) in enumerate(zip(self.levels, levels, strict=True)):
            if number == 0:
                continue
            x = with_coordinates(level) if number == len(self.levels) - 1 else level
            for step, conv in enumerate(convs, start=1):
                size = levels[number - step].shape[-2:]
                x = F.interpolate(conv(x), size=size, mode="bilinear")
            total = total + x
        return self.out(total)


def with_coordinates(features: torch.Tensor) -> torch.Tensor:
    """Features (N, D, H, W) with two more channels: x and y, from -1 at the first to 1 at the last pixel."""
    height, width = features.shape[-2:]
    x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype).view(-1, 1).expand(height, width)
    place = torch.stack([x, y]).expand(len(features), 2, height, width)
    return torch.cat([features, place], dim=1)


def _tower(in_channels: int, *, channels: int, num_convs: int, norm: str, conv: str) -> nn.Sequential:
    widths = [in_channels] + [channels] * num_convs
    return nn.Sequential(*(MAKERS[conv](first, second, 3, norm=norm) for first, second in _pairs(widths)))


def _pairs(widths: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(widths[:-1], widths[1:], strict=True))


MAKERS = {
    "standard": partial(conv_norm, activation=F.relu),
    "dwsep": partial(separable_conv_norm, activation=F.relu),
}


def _check_levels(
    input_shape: Mapping[str, ShapeSpec],
    in_features: Sequence[str],
    mask_in_features: Sequence[str],
    num_grids: Sequence[int],
    conv: str,
) -> None:
    for key, names in (("IN_FEATURES", in_features), ("MASK_IN_FEATURES", mask_in_features)):
        missing = [name for name in names if name not in input_shape]
        if missing or not names:
            raise ConfigError(
                f"MODEL.SOLOV2.{key} is {list(names)}, but the backbone has the features {sorted(input_shape)}; choose "
                "among those, for example with MODEL.BACKBONE.NAME build_timm_two_way_fpn_backbone"
            )
    if len(num_grids) != len(in_features):
        raise ConfigError(
            f"MODEL.SOLOV2.NUM_GRIDS is {list(num_grids)}, expected one number for each of IN_FEATURES "
            f"{list(in_features)}"
        )
    strides = [input_shape[name].stride for name in mask_in_features]
    expected = [_MASK_STRIDE * 2**level for level in range(len(strides))]
    if strides != expected:
        raise ConfigError(
            f"MODEL.SOLOV2.MASK_IN_FEATURES {list(mask_in_features)} have the strides {strides}, expected {expected}"
        )
    if conv not in CONVOLUTIONS:
        raise ConfigError(f"MODEL.SOLOV2.CONV is {conv!r}, expected one of {', '.join(CONVOLUTIONS)}")
