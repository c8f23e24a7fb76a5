"""The image-level branch of DeepLab's ASPP, for features of any size.

Detectron2's ASPP averages over a window of the training crop's size, so that a larger test image sees averages of the
extent that the network was trained with (DeepLabV3+, https://arxiv.org/abs/1802.02611). Its ``AvgPool2d`` accepts only
feature sizes that are multiples of the window and costs seconds on a CPU. :class:`WindowedImagePooling` takes the same
weights, gives the same numbers where Detectron2 gives any, and works elsewhere too.

Shapes: N images, C channels, (H, W) features, (h, w) window.
"""

from __future__ import annotations

from typing import cast

import torch
from detectron2.layers import ASPP, Conv2d
from torch import nn
from torch.nn import functional as F


def window_average(x: torch.Tensor, window: tuple[int, int] | None) -> torch.Tensor:
    """Average over every full position of a window, stride 1.

    A box average is separable: ``h + w`` additions an output instead of ``h * w``.

    Args:
        x: float (N, C, H, W).
        window: (h, w), clamped to the features where those are smaller; None is the whole feature map.

    Returns:
        float (N, C, H - h + 1, W - w + 1) of the clamped window.
    """
    height, width = x.shape[-2:]
    h, w = (height, width) if window is None else (min(window[0], height), min(window[1], width))
    if (h, w) == (height, width):
        return x.mean(dim=(-2, -1), keepdim=True)
    rows = F.avg_pool2d(x, kernel_size=(h, 1), stride=1)
    return F.avg_pool2d(rows, kernel_size=(1, w), stride=1)


class WindowedImagePooling(nn.Sequential):
    """Window average, 1x1 convolution with bias, activation. The average has no parameters.

    A ``Sequential`` only for its names: the convolution stays child ``1``, as in Detectron2's checkpoints.
    """

    def __init__(self, *, conv: Conv2d, window: tuple[int, int] | None) -> None:
        """
        Args:
            conv: 1x1, with ``activation`` and without ``norm``.
            window: (h, w) in feature pixels; None averages over the whole map.
        """
        super().__init__(nn.Identity(), conv)
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, C_out, 1..H, 1..W); ASPP resizes it back to (H, W)."""
        conv = cast(Conv2d, self[1])
        if self.window is None or (self.window[0] >= x.shape[-2] and self.window[1] >= x.shape[-1]):
            return conv(window_average(x, None))
        # An average and a 1x1 convolution commute, and after the convolution there are far fewer channels to average.
        projected = F.conv2d(x, conv.weight, conv.bias)
        return conv.activation(window_average(projected, self.window))


def with_any_size_pooling(aspp: ASPP, window: tuple[int, int] | None) -> ASPP:
    """Exchange the pooling branch of Detectron2's ASPP in place; the state-dict keys stay the same.

    Args:
        aspp: as Detectron2 builds it, ``convs`` ending with the pooling branch ``(average, convolution)``.
        window: see :class:`WindowedImagePooling`.

    Returns:
        The same module.
    """
    aspp.convs[-1] = WindowedImagePooling(conv=aspp.convs[-1][1], window=window)
    aspp.pool_kernel_size = None  # no feature size is refused any more
    return aspp
