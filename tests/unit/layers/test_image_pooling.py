from __future__ import annotations

import pytest
import torch
from detectron2.layers import ASPP
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.layers.image_pooling import window_average, with_any_size_pooling


def make_aspp(window):
    return ASPP(6, 4, [1, 2, 3], norm="BN", activation=F.relu, pool_kernel_size=window).eval()


@pytest.mark.parametrize("size", [(4, 8), (8, 8), (12, 24)], ids=str)
def test_equal_to_detectron2_where_it_accepts_the_size(size):
    theirs = make_aspp((4, 8))
    ours = with_any_size_pooling(make_aspp((4, 8)), (4, 8))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_without_a_window_bit_equal():
    theirs, ours = make_aspp(None), with_any_size_pooling(make_aspp(None), None)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (20, 3), (5, 9), (9, 17)], ids=str)
def test_any_other_size(size):
    aspp = with_any_size_pooling(make_aspp((4, 8)), (4, 8))
    assert aspp(torch.randn(1, 6, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize("window", [(3, 4), (3, 9), (1, 1), (50, 2), None], ids=str)
def test_window_average_is_the_average_of_the_clamped_window(window):
    x = torch.randn(2, 3, 5, 9)
    clamped = (5, 9) if window is None else (min(window[0], 5), min(window[1], 9))
    expected = nn.AvgPool2d(clamped, stride=1)(x)
    torch.testing.assert_close(window_average(x, window), expected)


def test_gradients_reach_the_convolution():
    aspp = with_any_size_pooling(make_aspp((2, 2)), (2, 2))
    aspp(torch.randn(1, 6, 5, 5)).sum().backward()
    assert aspp.convs[4][1].weight.grad.abs().sum() > 0
