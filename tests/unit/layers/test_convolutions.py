from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.layers.convolutions import conv_norm, leaky_relu, separable_conv_norm


@pytest.mark.parametrize("make", [conv_norm, separable_conv_norm])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_size_stays_and_there_is_no_bias(make, kernel_size):
    conv = make(4, 6, kernel_size, norm="BN", activation=F.relu)
    assert conv(torch.randn(2, 4, 9, 7)).shape == (2, 6, 9, 7)
    assert not [part for part in conv.modules() if isinstance(part, nn.Conv2d) and part.bias is not None]


def test_each_step_of_a_separable_convolution_is_activated():
    conv = separable_conv_norm(2, 2, norm="BN", activation=leaky_relu).eval()
    x = torch.randn(1, 2, 5, 5)
    norm = 1 / (1 + 1e-5) ** 0.5
    with torch.no_grad():
        between = F.leaky_relu(norm * F.conv2d(x, conv.depthwise.weight, padding=1, groups=2), 0.01)
        expected = F.leaky_relu(norm * F.conv2d(between, conv.pointwise.weight), 0.01)
        torch.testing.assert_close(conv(x), expected)


def test_dilation_is_of_rows_and_columns():
    conv = separable_conv_norm(1, 1, norm="FrozenBN", activation=F.relu, dilation=(6, 21))
    nn.init.ones_(conv.depthwise.weight)
    nn.init.ones_(conv.pointwise.weight)
    x = torch.zeros(1, 1, 21, 61)
    x[0, 0, 10, 30] = 1
    rows, columns = (conv(x)[0, 0] > 0.5).nonzero().T
    assert (sorted(set(rows.tolist())), sorted(set(columns.tolist()))) == ([4, 10, 16], [9, 30, 51])
