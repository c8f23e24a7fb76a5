"""Object-contextual representations (OCR): each pixel is described by the classes it resembles.

Source: https://arxiv.org/abs/1909.11065, section 3. Shape legend: N images, h x w pixels at stride 4, C classes,
M mid channels (512), K key channels (256).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.layers.norm import init_conv, make_norm


def conv_norm_relu(
    channels: Sequence[int], *, kernel: int = 1, norm: str = "BN", bias: bool = False, bn_eps: float = 1e-5
) -> nn.Sequential:
    """Convolution, norm and ReLU, once for each step of ``channels``; convolutions are the modules 0, 3, ..."""
    layers: list[nn.Module] = []
    for before, after in zip(channels, channels[1:], strict=False):
        conv = init_conv(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias))
        layers += [conv, make_norm(norm, after, eps=bn_eps), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def gather_regions(features: torch.Tensor, soft_regions: torch.Tensor) -> torch.Tensor:
    """The mean feature of each class's region, weighted by a softmax over the pixels (equation 1 of the paper).

    In float32 also under autocast: of a hundred thousand pixels each has a share that float16 cannot hold.

    Args:
        features: float (N, M, h, w).
        soft_regions: float (N, C, h, w), logits of the classes.

    Returns:
        float32 (N, M, C).
    """
    with torch.autocast(features.device.type, enabled=False):
        shares = soft_regions.flatten(2).float().softmax(dim=-1)
        return features.flatten(2).float() @ shares.transpose(1, 2)


class ObjectAttention(nn.Module):
    """Attention of the pixels to the regions, and the description of each pixel with its context (equations 2 and 3).

    Names: ``query``, ``key``, ``value``, ``up`` and ``fuse`` are what the published code calls f_pixel, f_object,
    f_down, f_up and conv_bn_dropout.
    """

    def __init__(
        self, channels: int, key_channels: int, *, norm: str = "BN", dropout: float = 0.05, bn_eps: float = 1e-5
    ) -> None:
        """
        Args:
            channels: M, in and out.
            key_channels: K.
            norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
            dropout: probability of a whole channel, in training.
            bn_eps: of the batch norms.
        """
        super().__init__()
        make = partial(conv_norm_relu, norm=norm, bn_eps=bn_eps)
        self.query = make([channels, key_channels, key_channels])
        self.key = make([channels, key_channels, key_channels])
        self.value = make([channels, key_channels])
        self.up = make([key_channels, channels])
        self.fuse = nn.Sequential(*make([2 * channels, channels]), nn.Dropout2d(dropout))

    def forward(self, features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Features (N, M, h, w) and regions (N, M, C) to features with context (N, M, h, w)."""
        context = self.up(self.attend(features, regions))
        return self.fuse(torch.cat([context, features], dim=1))

    def attend(self, features: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Each pixel's mean of the regions' values, weighted by a softmax over the regions: (N, K, h, w)."""
        regions = regions.unsqueeze(-1)
        query, key, value = self.query(features), self.key(regions), self.value(regions)
        # Its own scale is 1 / sqrt(K), that of the paper.
        attended = F.scaled_dot_product_attention(_as_sequence(query), _as_sequence(key), _as_sequence(value))
        return attended.squeeze(1).transpose(1, 2).reshape(query.shape)


def _as_sequence(maps: torch.Tensor) -> torch.Tensor:
    """(N, K, h, w) to one attention head of h * w elements: (N, 1, h * w, K)."""
    return maps.flatten(2).transpose(1, 2).unsqueeze(1)
