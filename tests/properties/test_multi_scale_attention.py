"""What hierarchical multi-scale attention must do whatever the network gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from semantic_branches import ocr_branch

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.multi_scale_attention import MultiScaleAttention, check_scales, fuse_scales, resize_to

SCALES = [(0.5, 1.0), (0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 1.5), (1.0, 2.0), (0.75, 1.0, 1.25)]


def maps_of(scales, *, channels=3, size=(12, 20)):
    return {s: torch.randn(2, channels, int(size[0] * s), int(size[1] * s), dtype=torch.float64) for s in scales}


def attention_of(maps, value=None):
    made = {s: torch.rand_like(x[:, :1]) for s, x in maps.items()}
    return made if value is None else {s: torch.full_like(x, value) for s, x in made.items()}


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("align", [True, False])
def test_full_attention_gives_the_lowest_scale_and_none_the_highest(scales, align):
    maps = maps_of(scales)
    size = maps[1.0].shape[-2:]
    lowest = fuse_scales(maps, attention_of(maps, 1.0), align_corners=align)
    torch.testing.assert_close(lowest, resize_to(maps[min(scales)], size, align_corners=align))
    highest = fuse_scales(maps, attention_of(maps, 0.0), align_corners=align)
    expected = maps[max(scales)]
    for scale in sorted((s for s in scales if s >= 1), reverse=True):  # reduced step by step
        expected = resize_to(expected, maps[scale].shape[-2:], align_corners=align)
    torch.testing.assert_close(highest, expected)


@pytest.mark.parametrize("scales", SCALES)
def test_a_constant_stays_whatever_the_attention(scales):
    maps = {s: torch.full_like(x, 2.5) for s, x in maps_of(scales).items()}
    fused = fuse_scales(maps, attention_of(maps), align_corners=False)
    torch.testing.assert_close(fused, torch.full_like(maps[1.0], 2.5))


@pytest.mark.parametrize("scales", SCALES)
def test_fused_values_lie_between_those_of_the_scales(scales):
    maps = maps_of(scales)
    fused = fuse_scales(maps, attention_of(maps), align_corners=False)
    assert fused.min() >= min(x.min() for x in maps.values()) - 1e-9
    assert fused.max() <= max(x.max() for x in maps.values()) + 1e-9


def test_the_order_of_the_scales_changes_nothing():
    maps = maps_of((0.5, 1.0, 2.0))
    attention = attention_of(maps)
    expected = fuse_scales(maps, attention, align_corners=False)
    for order in itertools.permutations(maps):
        shuffled = fuse_scales({s: maps[s] for s in order}, {s: attention[s] for s in order}, align_corners=False)
        assert torch.equal(shuffled, expected)


def test_low_scales_are_multiplied_before_they_are_enlarged():
    maps = maps_of((0.5, 1.0))
    attention, size = attention_of(maps), maps[1.0].shape[-2:]
    up = lambda x: resize_to(x, size, align_corners=False)  # noqa: E731
    expected = up(attention[0.5] * maps[0.5]) + (1 - up(attention[0.5])) * maps[1.0]
    assert torch.equal(fuse_scales(maps, attention, align_corners=False), expected)
    other = up(attention[0.5]) * up(maps[0.5]) + (1 - up(attention[0.5])) * maps[1.0]
    assert not torch.allclose(expected, other)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("size", [(32, 64), (36, 44)])
def test_scale_one_alone_is_plain_ocr(stride, size):
    branch = ocr_branch(TRAIN_SCALES=[1.0], TEST_SCALES=[1.0], FUSION_STRIDE=stride).eval()
    images = torch.randn(1, 3, *size)
    output, plain = branch(images), branch.ocr(branch.backbone(images))
    expected = plain.logits if stride == 4 else resize_to(plain.logits, size, align_corners=True)
    assert torch.equal(output.logits, expected) and torch.equal(output.features, plain.features)
    assert output.stride == stride


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 4])
def test_evaluation_at_the_training_scales_equals_the_fusion_of_training(stride):
    branch = ocr_branch(FUSION_STRIDE=stride, TEST_SCALES=[1.0, 0.5])
    images = torch.randn(2, 3, 32, 64)
    evaluated = branch.eval()(images)
    # Training mode with the statistics and without the dropout of evaluation.
    for part in (branch, branch.multi_scale):
        part.training = True
    trained = branch(images)
    torch.testing.assert_close(trained.logits, evaluated.logits)
    assert [name for name, _, _ in trained.auxiliary] == ["aux", "scale_0.5", "scale_1"] and not evaluated.auxiliary


@torch.no_grad()
def test_the_listed_order_of_test_scales_changes_nothing():
    images = torch.randn(1, 3, 32, 32)
    first, second = (ocr_branch(TEST_SCALES=scales).eval()(images) for scales in ([0.5, 1.0, 2.0], [2.0, 0.5, 1.0]))
    assert torch.equal(first.logits, second.logits)


@torch.no_grad()
def test_mirrored_images_give_mirrored_logits():
    branch = ocr_branch(TEST_FLIP=True, TEST_SCALES=[0.5, 1.0]).eval()
    images = torch.randn(1, 3, 32, 64)
    torch.testing.assert_close(branch(images.flip(-1)).logits.flip(-1), branch(images).logits)


def test_any_network_can_be_wrapped():
    wrapped = MultiScaleAttention(4, test_scales=(0.5, 1.0, 1.5), mid_channels=2).eval()
    sizes = []

    def network(images):
        sizes.append(tuple(images.shape[-2:]))
        return images[..., ::4, ::4], torch.randn(1, 4, *images[..., ::4, ::4].shape[-2:])

    output = wrapped(network, torch.randn(1, 3, 33, 40))
    assert sizes == [(49, 60), (33, 40), (16, 20)] and output.fused.shape == (1, 3, 9, 10)
    assert sorted(output.attention) == [0.5, 1.0] and sorted(output.scales) == [0.5, 1.0, 1.5]


def test_attention_that_no_training_scale_reads_is_not_trained():
    assert not any(p.requires_grad for p in MultiScaleAttention(4, train_scales=[1.0]).parameters())
    assert all(p.requires_grad for p in MultiScaleAttention(4).parameters())


@pytest.mark.parametrize("scales", [[], [0.5, 2.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]])
def test_scales_without_one_or_twice_are_refused(scales):
    with pytest.raises(ConfigError, match="TEST_SCALES"):
        check_scales(scales, "TEST_SCALES")


def test_only_strides_one_and_four():
    with pytest.raises(ConfigError, match="1 or 4"):
        MultiScaleAttention(4, fusion_stride=2)
