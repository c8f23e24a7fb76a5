"""Masks enlarged in their boxes, against whole maps enlarged step by step."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from panoptic_plugin.postprocessing.enlarged_masks import enlarged_masks

SIZES = [
    {"image_size": (64, 96), "padded_size": (64, 96), "size": (64, 96)},
    {"image_size": (61, 90), "padded_size": (64, 96), "size": (61, 90)},
    {"image_size": (61, 90), "padded_size": (64, 96), "size": (122, 181)},
    {"image_size": (61, 90), "padded_size": (64, 96), "size": (37, 101)},
    {"image_size": (50, 33), "padded_size": (64, 96), "size": (11, 7)},
]


def _whole(probability: torch.Tensor, sizes: dict) -> torch.Tensor:
    padded = F.interpolate(probability[None], size=sizes["padded_size"], mode="bilinear")
    cut = padded[..., : sizes["image_size"][0], : sizes["image_size"][1]]
    return F.interpolate(cut, size=sizes["size"], mode="bilinear")[0]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_equal_to_whole_maps(sizes, threshold):
    generator = torch.Generator().manual_seed(4)
    smooth = F.interpolate(torch.randn(6, 1, 4, 6, generator=generator) * 4 - 3, size=(16, 24), mode="bilinear")[:, 0]
    noise = torch.randn(4, 16, 24, generator=generator) * 3 - 2
    single = torch.full((3, 16, 24), -9.0)
    single[0, 0, 0], single[1, 15, 23], single[2, 7, 11] = 9, 9, 9
    probability = torch.cat([smooth, noise, single]).sigmoid()
    found, values = enlarged_masks(probability, threshold, **sizes), _whole(probability, sizes)
    clear = (values - threshold).abs() > 1e-6
    assert clear.float().mean() > 0.999
    assert torch.equal(found[clear], (values > threshold)[clear])
    assert found.any()


def test_empty_masks_and_none_at_all():
    sizes = SIZES[3]
    assert not enlarged_masks(torch.zeros(2, 16, 24), 0.5, **sizes).any()
    assert enlarged_masks(torch.zeros(0, 16, 24), 0.5, **sizes).shape == (0, 37, 101)


def test_a_mask_in_the_padding_only_is_empty():
    probability = torch.zeros(1, 16, 24)
    probability[:, :, 23] = 1.0
    assert not enlarged_masks(probability, 0.5, image_size=(64, 60), padded_size=(64, 96), size=(64, 60)).any()
