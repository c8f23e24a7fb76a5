"""DETR's merge of masks against a literal version of the published rule, and Pillow's nearest neighbour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from panoptic_plugin.postprocessing.query_masks import keep_queries, merge_query_masks
from panoptic_plugin.postprocessing.query_owners import nearest_sources


def literal(masks, labels, things, size, out, min_area=4):
    """Softmax over enlarged masks, an image of indices resized by Pillow, small masks dropped until there is none."""
    kept = list(range(len(labels)))

    def index_map(kept, dedup):
        enlarged = F.interpolate(masks[kept][None], size=size, mode="bilinear", align_corners=False)[0]
        owner = enlarged.flatten(1).transpose(0, 1).softmax(-1).argmax(-1).view(size).numpy()
        if dedup:
            for label in {labels[k] for k in kept if labels[k] not in things}:
                same = [place for place, k in enumerate(kept) if labels[k] == label]
                for place in same[1:]:
                    owner[owner == place] = same[0]
        return np.asarray(Image.fromarray(owner.astype(np.uint8)).resize(out[::-1], Image.Resampling.NEAREST))

    owner = index_map(kept, True) if kept else np.zeros(out, np.uint8)
    while kept:
        areas = [int((owner == place).sum()) for place in range(len(kept))]
        if min(areas) > min_area:
            return owner.astype(int) + 1, [(labels[k], area) for k, area in zip(kept, areas, strict=True)]
        kept = [k for k, area in zip(kept, areas, strict=True) if area > min_area]
        owner = index_map(kept, False) if kept else np.zeros(out, np.uint8)
    return np.zeros(out, int), []


def smooth(generator, count, height, width):
    coarse = torch.randn(1, count, 3, 4, generator=generator) * 4
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0]


@pytest.mark.parametrize("seed", range(50))
def test_official_mode_is_the_literal_rule(seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = np.random.default_rng(seed)
    size = tuple(int(n) for n in numbers.integers(24, 80, 2))
    out = size if seed % 3 == 0 else tuple(int(n) for n in numbers.integers(16, 120, 2))
    count = int(numbers.integers(1, 14))
    masks = smooth(generator, count, -(-size[0] // 4), -(-size[1] // 4))
    if count > 3:  # duplicates, of which one is everywhere better
        masks[1] = masks[0] + 0.01
        masks[3] = masks[2] - 3
    labels = torch.randint(0, 6, (count,), generator=generator)
    found, segments = merge_query_masks(
        masks, labels, torch.rand(count), thing_labels=range(3), image_size=size, padded_size=size, output_size=out
    )
    expected, expected_segments = literal(masks, labels.tolist(), {0, 1, 2}, size, out)
    assert np.array_equal(found.numpy(), expected)
    assert [(one["category_id"], one["area"]) for one in segments] == expected_segments
    assert [one["id"] for one in segments] == list(range(1, len(segments) + 1))
    assert all(type(one["isthing"]) is bool for one in segments)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("difference", [0, 1e-7, 1e-6, 1e-5])
def test_masks_that_hardly_differ_follow_the_rounding_of_the_literal_rule(seed, difference):
    """As those of random weights: the softmax makes equal what differs in the last bits, and the first one wins."""
    generator = torch.Generator().manual_seed(seed)
    masks = smooth(generator, 1, 16, 20) + difference * torch.randn(12, 16, 20, generator=generator)
    labels = torch.randint(0, 6, (12,), generator=generator)
    size, out = (64, 80), (41, 90)
    found, segments = merge_query_masks(
        masks, labels, torch.rand(12), thing_labels=range(3), image_size=size, padded_size=size, output_size=out
    )
    expected, expected_segments = literal(masks, labels.tolist(), {0, 1, 2}, size, out)
    assert np.array_equal(found.numpy(), expected)
    assert [(one["category_id"], one["area"]) for one in segments] == expected_segments


@pytest.mark.parametrize("seed", range(200))
def test_rows_are_those_of_pillow(seed):
    num_in, num_out = (int(n) for n in np.random.default_rng(seed).integers(1, 255, 2))
    line = Image.fromarray(np.arange(num_in, dtype=np.uint8)[:, None])
    assert np.array_equal(nearest_sources(num_in, num_out), np.asarray(line.resize((1, num_out), Image.NEAREST))[:, 0])


def halves(*areas: tuple[slice, slice], size=(8, 8)) -> torch.Tensor:
    masks = torch.full((len(areas), *size), -5.0)
    for mask, area in zip(masks, areas, strict=True):
        mask[area] = 5.0
    return masks


LEFT, RIGHT = (slice(None), slice(0, 4)), (slice(None), slice(4, 8))
SAME_SIZE = {"image_size": (8, 8), "padded_size": (8, 8), "output_size": (8, 8)}


def test_union_joins_stuff_and_official_does_not():
    masks, labels, scores = halves(LEFT, RIGHT), torch.tensor([5, 5]), torch.tensor([0.9, 0.95])
    union, segments = merge_query_masks(masks, labels, scores, thing_labels=[1], stuff_merge="union", **SAME_SIZE)
    assert (union == 1).all() and segments[0]["area"] == 64 and segments[0]["score"] == pytest.approx(0.95)
    # The second half belongs to the first mask at first; then its own is found empty and dropped.
    official, segments = merge_query_masks(masks, labels, scores, thing_labels=[1], **SAME_SIZE)
    assert (official == 1).all() and len(segments) == 1
    apart, segments = merge_query_masks(masks, labels, scores, thing_labels=[5], **SAME_SIZE)
    assert (apart[:, :4] == 1).all() and (apart[:, 4:] == 2).all() and [s["isthing"] for s in segments] == [True, True]


@pytest.mark.parametrize(("pixels", "survives"), [(4, False), (5, True)])
def test_four_pixels_are_too_few(pixels, survives):
    masks = halves((slice(None), slice(None)), (slice(0, 1), slice(0, pixels)))
    masks[0] *= 0.5
    ids, segments = merge_query_masks(masks, torch.tensor([1, 2]), torch.ones(2), thing_labels=[1, 2], **SAME_SIZE)
    assert (len(segments) == 2) is survives and int((ids == 2).sum()) == (pixels if survives else 0)


def test_nothing_kept_is_nothing():
    kept, labels, scores = keep_queries(torch.zeros(10, 4), 0.85)
    ids, segments = merge_query_masks(torch.zeros(0, 8, 8), labels, scores, thing_labels=[], **SAME_SIZE)
    assert len(kept) == 0 and not ids.any() and ids.dtype == torch.int32 and segments == []


def test_padding_is_cut_off_or_squeezed_in():
    masks = halves((slice(None), slice(0, 2)), (slice(None), slice(2, 8)))  # the image is the left half of its batch
    sizes = {"image_size": (32, 16), "padded_size": (32, 32), "output_size": (32, 16)}
    arguments = {"thing_labels": [0, 1], **sizes}
    cut, _ = merge_query_masks(masks, torch.tensor([0, 1]), torch.ones(2), padded_masks="crop", **arguments)
    squeezed, _ = merge_query_masks(masks, torch.tensor([0, 1]), torch.ones(2), **arguments)
    assert int((cut == 1).sum()) == 32 * 8 and int((squeezed == 1).sum()) == 32 * 4


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="stuff_merge is 'both', expected one of official, union"):
        merge_query_masks(
            halves(LEFT), torch.tensor([1]), torch.ones(1), thing_labels=[], stuff_merge="both", **SAME_SIZE
        )
