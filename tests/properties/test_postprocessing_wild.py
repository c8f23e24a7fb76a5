"""Grouping of whatever a network may put out, held to Detectron2's own function: every pixel has the same id."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab.post_processing import (
    get_panoptic_segmentation,
    merge_semantic_and_instance,
)
from detectron2.projects.panoptic_deeplab.post_processing import group_pixels as upstream_group_pixels
from hypothesis import example, given, settings
from hypothesis import strategies as st
from panoptic_deeplab_models import NUM_CLASSES, THINGS, tiny_config

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.grouping import group_pixels
from panoptic_plugin.postprocessing.merge import merge
from panoptic_plugin.postprocessing.panoptic_deeplab import group_labels
from panoptic_plugin.postprocessing.resize import offsets_to_output_size

DIVISOR, VOID = 1000, -1
WILD = (1e4, -1e4, 1e6, -1e6, 1e30, math.inf, -math.inf, math.nan, -0.0, 0.5)
seeds = st.integers(0, 2**31)
sizes = st.one_of(
    st.tuples(st.integers(1, 24), st.integers(1, 24)), st.sampled_from([(1, 200), (200, 1), (1, 1), (40, 64)])
)
numbers_of_centers = st.one_of(st.just(1), st.integers(1, 12), st.sampled_from([199, 200, 256, 300]))
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


def random_centers(number, size, layout, generator):
    """int64 (number, 2): anywhere, only on the border, or of few places, so that many are the same."""
    centers = torch.stack([torch.randint(0, side, (number,), generator=generator) for side in size], dim=1)
    if layout == "border":
        side = torch.randint(0, 2, (number,), generator=generator)
        axis = torch.randint(0, 2, (number,), generator=generator)
        centers[torch.arange(number), axis] = side * (torch.tensor(size)[axis] - 1)
    if layout == "same":
        centers = centers[torch.randint(0, min(3, number), (number,), generator=generator)]
    return centers


def wild_offsets(size, share, generator):
    """float32 (2, H, W): half pixels, which tie, and a share of values that no network should put out."""
    offsets = (torch.randn((2, *size), generator=generator) * 8).round() / 2
    values = torch.tensor(WILD)[torch.randint(0, len(WILD), (2, *size), generator=generator)]
    return torch.where(torch.rand((2, *size), generator=generator) < share, values, offsets)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, numbers_of_centers, st.sampled_from(["anywhere", "border", "same"]), st.sampled_from([0, 0.2, 1]))
@example(0, (1, 1), 1, "same", 1)
def test_wild_offsets_group_as_detectron2_groups_them(seed, size, number, layout, share):
    """Neither a crash nor an id out of range: far away and for what is no number the first center counts."""
    generator = torch.Generator().manual_seed(seed)
    centers = random_centers(number, size, layout, generator)
    offsets = wild_offsets(size, share, generator)
    mask = torch.rand(size, generator=generator) < 0.8
    before = [part.clone() for part in (centers, offsets, mask)]
    found = group_pixels(centers, offsets, mask)
    assert torch.equal(found, upstream_group_pixels(centers, offsets)[0] * mask)
    for part, copy in zip((centers, offsets, mask), before, strict=True):
        assert torch.equal(part.nan_to_num(), copy.nan_to_num())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "is_cpu", lambda tensor: False)
        assert torch.equal(group_pixels(centers, offsets, mask), found)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e30])
def test_offsets_that_are_all_wild(value):
    centers = torch.tensor([[3, 3], [0, 0], [9, 9]])
    found = group_pixels(centers, torch.full((2, 10, 10), value), torch.ones((10, 10), dtype=torch.bool))
    assert (found == 1).all()


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, numbers_of_centers, st.integers(0, 40))
def test_merging_equals_detectron2(seed, size, num_instances, stuff_area):
    """Votes that tie, instances on stuff, instances without a pixel, small stuff, only things, nothing but void."""
    generator = torch.Generator().manual_seed(seed)
    thing_ids = set(
        (torch.rand(NUM_CLASSES, generator=generator) < torch.rand(1, generator=generator)).nonzero().T[0].tolist()
    )
    semantic = torch.randint(0, NUM_CLASSES, size, generator=generator)
    instance_ids = torch.randint(0, num_instances + 1, size, generator=generator)
    is_thing = torch.isin(semantic, torch.tensor(sorted(thing_ids), dtype=torch.int64))
    instance_ids = instance_ids * is_thing
    expected = merge_semantic_and_instance(
        semantic[None], instance_ids[None], is_thing[None].long(), DIVISOR, thing_ids, stuff_area, VOID
    )
    found, _ = merge(semantic, instance_ids, thing_ids, DIVISOR, stuff_area)
    assert torch.equal(found, expected[0])


@settings(max_examples=12, deadline=None)
@given(seeds, st.sampled_from([1, 2, 199, 200, 230]), st.sampled_from([0, 0.1]), dtypes)
def test_as_many_centers_as_there_may_be(seed, number, share, dtype):
    """K = 1, K at and above ``top_k``: the whole of Detectron2's function, on half-precision offsets too."""
    generator = torch.Generator().manual_seed(seed)
    size, top_k = (24, 40), 200
    labels = torch.randint(0, 3, (3, 5), generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1)
    heatmap = torch.zeros(size[0] * size[1])
    places = torch.randperm(len(heatmap) // 2, generator=generator)[:number] * 2
    heatmap[places] = torch.linspace(0.2, 0.9, number)
    heatmap = heatmap.view(1, *size)
    offsets = wild_offsets(size, share, generator).to(dtype)
    arguments = {"label_divisor": DIVISOR, "stuff_area": 100, "threshold": 0.1, "nms_kernel": 1}
    found = group_labels(labels, heatmap, offsets, num_classes=3, thing_ids={1, 2}, top_k=top_k, **arguments)
    assert len(found.centers) == min(number, top_k)
    # Detectron2 keeps those above the lowest of the best, so that one is missing where there are enough.
    upstream_top_k = top_k + 1 if number >= top_k else top_k
    expected, centers = get_panoptic_segmentation(
        labels[None],
        heatmap.float(),
        offsets.float(),
        thing_ids={1, 2},
        void_label=VOID,
        top_k=upstream_top_k,
        **arguments,
    )
    assert torch.equal(found.centers, centers[0])
    assert torch.equal(found.panoptic, expected[0])


@settings(max_examples=40, deadline=None)
@given(seeds, sizes, st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_offsets_are_rescaled_with_the_image(seed, size, output_size):
    """Pixels that point to one place point to the same place, wherever it lies now, in the enlarged image."""
    generator = torch.Generator().manual_seed(seed)
    constant = torch.randn((2, 1, 1), generator=generator).expand(2, *size) * 5
    found = offsets_to_output_size(constant, size, output_size)
    scale = torch.tensor([output_size[axis] / size[axis] for axis in (0, 1)]).view(2, 1, 1)
    assert found.shape == (2, *output_size)
    torch.testing.assert_close(found, (constant[:, :1, :1] * scale).expand_as(found))


@pytest.fixture(scope="module")
def model():
    return build_model(tiny_config()).eval()


def see(model, outputs):
    """Let the model see the outputs (C, H, W) for images of that number, whatever else is in the batch."""
    model.pixel_mean, model.pixel_std, model.size_divisibility = torch.zeros(3, 1, 1), torch.ones(3, 1, 1), 0

    def predict(images, *, enlarge_logits=True):
        height, width = images.shape[-2:]
        padded = []
        for number in images[:, 0, 0, 0].int().tolist():
            logits, heatmap, offsets = outputs[number]
            margin = (0, width - heatmap.shape[-1], 0, height - heatmap.shape[-2])
            # What lies in the padding must not matter.
            padded.append([torch.nn.functional.pad(part, margin, value=9.0) for part in (logits, heatmap, offsets)])
        return tuple(torch.stack(parts) for parts in zip(*padded, strict=True))

    model.predict = predict


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(
    seeds, st.lists(st.tuples(st.integers(1, 24), st.integers(1, 24)), min_size=2, max_size=4), st.booleans(), dtypes
)
def test_a_batch_gives_what_its_images_give_alone(model, seed, image_sizes, resized, dtype):
    generator = torch.Generator().manual_seed(seed)
    outputs, batch = [], []
    for number, size in enumerate(image_sizes):
        logits = torch.randn((NUM_CLASSES, *size), generator=generator)
        logits[list(THINGS)] += float(torch.randint(-1, 2, (1,), generator=generator)) * 9  # only things, only stuff
        heatmap = torch.rand((1, *size), generator=generator)
        outputs.append([part.to(dtype) for part in (logits, heatmap, wild_offsets(size, 0.05, generator))])
        image = torch.full((3, *size), float(number))
        batch.append({"image": image} | ({"height": 3 * size[0], "width": size[1] + 2} if resized else {}))
    see(model, outputs)
    for model.return_logits in (True, False):
        for found, sample in zip(model(batch), batch, strict=True):
            alone = model([sample])[0]
            assert torch.equal(found["sem_seg"], alone["sem_seg"])
            assert torch.equal(found["panoptic_seg"][0], alone["panoptic_seg"][0])
            assert repr(found["segments_info"]) == repr(alone["segments_info"])  # a score that is NaN equals itself
            assert torch.equal(found["instances"].pred_masks, alone["instances"].pred_masks)
