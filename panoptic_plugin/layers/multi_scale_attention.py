"""Hierarchical multi-scale attention: how much each pixel of a scale counts is predicted by the network.

Source: https://arxiv.org/abs/2005.10821. Shape legend: N images of H x W pixels; maps of C channels (logits, all
kinds that are fused alike stacked along the channels); at scale s the image has floor(s H) x floor(s W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.ocr import conv_norm_relu

# images (N, 3, H, W) -> maps (N, C, h, w), features (N, F, h, w)
Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class MultiScaleMaps:
    """What :class:`MultiScaleAttention` gives.

    Attributes:
        fused: float (N, C, h, w), of scale 1.0.
        features: float (N, F, h, w), of scale 1.0.
        scales: the maps of each scale by themselves.
        attention: float (N, 1, h_s, w_s), 0 to 1, of each scale except the largest; empty for one scale.
    """

    fused: torch.Tensor
    features: torch.Tensor
    scales: dict[float, torch.Tensor]
    attention: dict[float, torch.Tensor]


def resize_to(maps: torch.Tensor, size: Sequence[int], *, align_corners: bool) -> torch.Tensor:
    """Bilinear resizing of (N, C, h, w) to (N, C, *size)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


def check_scales(scales: Sequence[float], key: str) -> tuple[float, ...]:
    """The scales, largest first; raises ConfigError without 1.0, or for one that is not positive or there twice."""
    ordered = tuple(sorted((float(scale) for scale in scales), reverse=True))
    if 1.0 not in ordered or ordered[-1] <= 0 or len(set(ordered)) < len(ordered):
        raise ConfigError(f"{key} is {list(scales)}, expected different positive factors with 1.0 among them")
    return ordered


def fuse_scales(
    maps: Mapping[float, torch.Tensor], attention: Mapping[float, torch.Tensor], *, align_corners: bool
) -> torch.Tensor:
    """Maps of several scales to one of scale 1.0, from the largest scale to the smallest (section 3.2 of the paper).

    A scale s from 1.0 up takes the place of what came before where its attention is 1: ``a P_s + (1 - a) down(P)``. A
    scale below 1.0 is enlarged after it was multiplied: ``up(a P_s) + (1 - up(a)) P``. All are convex combinations.

    Args:
        maps: scale -> float (N, C, h_s, w_s); 1.0 is among the scales, their order does not matter.
        attention: scale -> float (N, 1, h_s, w_s) of 0 to 1; not read for the largest scale.
        align_corners: how maps are resized.

    Returns:
        float (N, C, h_1, w_1).
    """
    largest, *others = sorted(maps, reverse=True)
    fused = maps[largest]
    for scale in others:
        share, own = attention[scale], maps[scale]
        if scale >= 1:
            fused = share * own + (1 - share) * resize_to(fused, own.shape[-2:], align_corners=align_corners)
        else:
            size = fused.shape[-2:]
            weighted = resize_to(share * own, size, align_corners=align_corners)
            fused = weighted + (1 - resize_to(share, size, align_corners=align_corners)) * fused
    return fused


class ScaleAttention(nn.Sequential):
    """Features (N, F, h, w) to the attention of their scale (N, 1, h, w): two 3x3 blocks, a 1x1 without bias."""

    def __init__(self, channels: int, mid_channels: int = 256, *, norm: str = "BN", bn_eps: float = 1e-5) -> None:
        blocks = conv_norm_relu([channels, mid_channels, mid_channels], kernel=3, norm=norm, bn_eps=bn_eps)
        super().__init__(*blocks, nn.Conv2d(mid_channels, 1, 1, bias=False), nn.Sigmoid())


class MultiScaleAttention(nn.Module):
    """Runs a network at several scales and fuses its maps; knows nothing of the network but what it gives."""

    def __init__(
        self,
        channels: int,
        *,
        train_scales: Sequence[float] = (0.5, 1.0),
        test_scales: Sequence[float] = (0.5, 1.0, 2.0),
        mid_channels: int = 256,
        norm: str = "BN",
        fusion_stride: int = 4,
        align_corners: bool = False,
        bn_eps: float = 1e-5,
    ) -> None:
        """
        Args:
            channels: of the network's features.
            train_scales: scales in training mode.
            test_scales: scales in evaluation mode.
            mid_channels: of the attention.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            fusion_stride: 4 fuses maps of the network's own size; 1 enlarges maps and attention to the size of the
                image at their scale before anything is multiplied, as the published code does.
            align_corners: how images, maps and attention are resized.
            bn_eps: of the batch norms.

        Raises:
            ConfigError: scales without 1.0, or another stride.
        """
        super().__init__()
        if fusion_stride not in (1, 4):
            raise ConfigError(f"the stride at which scales are fused is {fusion_stride}, expected 1 or 4")
        self.train_scales = check_scales(train_scales, "the scales of training (TRAIN_SCALES)")
        self.test_scales = check_scales(test_scales, "the scales of evaluation (TEST_SCALES)")
        self.fusion_stride, self.align_corners = fusion_stride, align_corners
        self.attention = ScaleAttention(channels, mid_channels, norm=norm, bn_eps=bn_eps)
        # One scale reads no attention, and DistributedDataParallel waits for gradients that never come.
        self.attention.requires_grad_(len(self.train_scales) > 1)

    @property
    def scales(self) -> tuple[float, ...]:
        """Those of the current mode, largest first."""
        return self.train_scales if self.training else self.test_scales

    def forward(self, network: Network, images: torch.Tensor) -> MultiScaleMaps:
        """Images (N, 3, H, W) to the maps of all scales and their fusion."""
        maps: dict[float, torch.Tensor] = {}
        attention: dict[float, torch.Tensor] = {}
        for scale in self.scales:
            resized = self._resize(images, scale)
            maps[scale], at_scale = network(resized)
            if scale != self.scales[0]:
                attention[scale] = self.attention(at_scale).float()
            if scale == 1:
                features = at_scale
            if self.fusion_stride == 1:
                maps[scale] = resize_to(maps[scale], resized.shape[-2:], align_corners=self.align_corners)
                if scale in attention:
                    attention[scale] = resize_to(attention[scale], resized.shape[-2:], align_corners=self.align_corners)
        return MultiScaleMaps(fuse_scales(maps, attention, align_corners=self.align_corners), features, maps, attention)

    def _resize(self, images: torch.Tensor, scale: float) -> torch.Tensor:
        size = [max(1, int(side * scale)) for side in images.shape[-2:]]
        return resize_to(images, size, align_corners=self.align_corners)
