"""The layers of HRNet-OCR (https://arxiv.org/abs/1909.11065): all resolutions to logits, and a supervised first guess.

Shape legend: N images, features res2..res5 at strides 4..32, h x w pixels at stride 4, C classes, M mid channels (512).
Parameters have names of their own; ``backbones/ocr_weights.py`` knows those of published files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from detectron2.layers import ShapeSpec
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.multi_scale_attention import resize_to
from panoptic_plugin.layers.ocr import ObjectAttention, conv_norm_relu, gather_regions


class OCROutput(NamedTuple):
    """Logits (N, C, h, w), auxiliary logits (N, C, h, w) and the features (N, M, h, w) that the former come from."""

    logits: torch.Tensor
    auxiliary: torch.Tensor
    features: torch.Tensor


class OCRLayers(nn.Module):
    """What is trained of the head: concatenation, soft regions, attention of the pixels to them, prediction."""

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        in_features: Sequence[str],
        num_classes: int,
        mid_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        norm: str = "BN",
        align_corners: bool = True,
        bn_eps: float = 1e-5,
    ) -> None:
        """
        Args:
            input_shape: features by name.
            in_features: the features to concatenate, the finest first; it is the size of the result.
            num_classes: C.
            mid_channels: M.
            key_channels: of the attention.
            dropout: probability of a whole channel of the features that predict, in training.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            align_corners: how the other features are enlarged.
            bn_eps: of the batch norms.

        Raises:
            ConfigError: a feature that the backbone does not give.
        """
        super().__init__()
        missing = [name for name in in_features if name not in input_shape]
        if missing or not in_features:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(in_features)}, but the backbone gives "
                f"{sorted(input_shape)}; name its features, the finest first"
            )
        self.in_features = list(in_features)
        self.align_corners = align_corners
        self.num_classes, self.feature_channels = num_classes, mid_channels
        self.stride = input_shape[in_features[0]].stride
        channels = sum(input_shape[name].channels for name in in_features)
        self.pixels = conv_norm_relu([channels, mid_channels], kernel=3, norm=norm, bias=True, bn_eps=bn_eps)
        self.regions = nn.Sequential(
            *conv_norm_relu([channels, channels], norm=norm, bias=True, bn_eps=bn_eps),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.attention = ObjectAttention(mid_channels, key_channels, norm=norm, dropout=dropout, bn_eps=bn_eps)
        self.predictor = nn.Conv2d(mid_channels, num_classes, 1)
        for predictor in (self.regions[-1], self.predictor):
            assert isinstance(predictor, nn.Conv2d) and predictor.bias is not None
            nn.init.normal_(predictor.weight, std=0.001)
            nn.init.zeros_(predictor.bias)

    def forward(self, features: Mapping[str, torch.Tensor]) -> OCROutput:
        """Features by name, to what :class:`OCROutput` says; logits are float32."""
        finest = features[self.in_features[0]]
        joined = torch.cat(
            [resize_to(features[f], finest.shape[-2:], align_corners=self.align_corners) for f in self.in_features],
            dim=1,
        )
        pixels, auxiliary = self.pixels(joined), self.regions(joined)
        described = self.attention(pixels, gather_regions(pixels, auxiliary))
        return OCROutput(self.predictor(described).float(), auxiliary.float(), described)
