"""Convolutions with a norm and an activation that keep the size of their features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d
from torch.nn import functional as F

from panoptic_plugin.layers.norm import make_norm

Activation = Callable[[torch.Tensor], torch.Tensor]
# Of all networks of the EfficientPS family (https://arxiv.org/abs/2004.02307).
leaky_relu: Activation = partial(F.leaky_relu, negative_slope=0.01)


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, *, norm: str, activation: Activation) -> Conv2d:
    """A convolution without bias, float (N, ``in_channels``, H, W) to (N, ``out_channels``, H, W).

    Args:
        kernel_size: odd.
        norm: see :func:`~panoptic_plugin.layers.norm.make_norm`.
        activation: after the norm.
    """
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=False,
        norm=make_norm(norm, out_channels),
        activation=activation,
    )


def separable_conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    norm: str,
    activation: Activation,
    dilation: tuple[int, int] = (1, 1),
) -> DepthwiseSeparableConv2d:
    """:func:`conv_norm` in two steps, one for each channel and one for each pixel; each with a norm and an activation.

    Args:
        dilation: of the first step, (rows, columns).
    """
    return DepthwiseSeparableConv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=tuple(kernel_size // 2 * one for one in dilation),
        dilation=dilation,
        norm1=partial(make_norm, norm),
        activation1=activation,
        norm2=partial(make_norm, norm),
        activation2=activation,
    )
