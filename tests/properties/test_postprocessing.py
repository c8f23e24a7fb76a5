"""What must hold for every panoptic post-processing, on random small inputs."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import group_pixels
from panoptic_plugin.postprocessing.instances import instances_of_panoptic
from panoptic_plugin.postprocessing.merge import merge
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs

NUM_CLASSES, DIVISOR = 6, 1000
seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
thing_sets = st.sets(st.integers(0, NUM_CLASSES - 1))
quick = settings(max_examples=40, deadline=None)


def random_outputs(seed, size):
    """Logits, heatmap and offsets; the heatmap has few distinct values, so that plateaus and ties are common."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((NUM_CLASSES, *size), generator=generator)
    heatmap = torch.randint(0, 5, (1, *size), generator=generator) / 4
    return logits, heatmap, torch.randn((2, *size), generator=generator) * 4


def run(outputs, thing_ids, *, stuff_area=3, top_k=20):
    return panoptic_from_outputs(
        *outputs,
        thing_ids=thing_ids,
        label_divisor=DIVISOR,
        stuff_area=stuff_area,
        threshold=0.1,
        nms_kernel=3,
        top_k=top_k,
    )


@quick
@given(seeds, sizes, thing_sets)
def test_segments_partition_the_image(seed, size, thing_ids):
    outputs = random_outputs(seed, size)
    panoptic, segments = run(outputs, thing_ids)
    assert panoptic.shape == size and panoptic.dtype == torch.int64
    ids, areas = panoptic[panoptic != -1].unique(return_counts=True)
    assert [(s["id"], s["area"]) for s in segments] == list(zip(ids.tolist(), areas.tolist(), strict=True))
    for segment in segments:
        category, instance = divmod(segment["id"], DIVISOR)
        assert segment["category_id"] == category
        assert segment["isthing"] == (category in thing_ids) == (instance > 0)
    numbers = {c: sorted(s["id"] % DIVISOR for s in segments if s["category_id"] == c) for c in thing_ids}
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


@quick
@given(seeds, sizes, thing_sets)
def test_no_pixel_is_lost(seed, size, thing_ids):
    """Without a smallest stuff area, only thing pixels without any center are void; stuff keeps its class."""
    outputs = random_outputs(seed, size)
    panoptic, _ = run(outputs, thing_ids, stuff_area=0)
    semantic = outputs[0].argmax(0)
    is_thing = torch.isin(semantic, torch.tensor(sorted(thing_ids), dtype=torch.int64))
    has_centers = len(find_centers(outputs[1], 0.1, 3, 20)[0]) > 0
    assert torch.equal(panoptic == -1, is_thing & (not has_centers))
    assert torch.equal(panoptic[~is_thing], semantic[~is_thing] * DIVISOR)


@quick
@given(seeds, sizes, thing_sets, st.permutations(range(NUM_CLASSES)))
def test_class_numbers_do_not_matter(seed, size, thing_ids, order):
    logits, heatmap, offsets = random_outputs(seed, size)
    renamed = torch.empty_like(logits)
    renamed[torch.tensor(order)] = logits
    panoptic, _ = run((logits, heatmap, offsets), thing_ids)
    other, _ = run((renamed, heatmap, offsets), {order[c] for c in thing_ids})
    # Equally frequent classes are told apart by their number; the shape of things is the same whatever they are called.
    assert torch.equal(panoptic == -1, other == -1)
    stuff = torch.isin(logits.argmax(0), torch.tensor(sorted(set(range(NUM_CLASSES)) - thing_ids)))
    kept = stuff & (panoptic != -1)
    assert torch.equal(torch.tensor(order)[panoptic[kept] // DIVISOR], other[kept] // DIVISOR)


@quick
@given(seeds, sizes, st.integers(1, 6), st.integers(1, 5))
def test_centers_are_the_highest_peaks(seed, size, nms_kernel, top_k):
    heatmap = random_outputs(seed, size)[1]
    every, scores = find_centers(heatmap, 0.1, nms_kernel, None)
    assert torch.equal(heatmap[0][every[:, 0], every[:, 1]], scores)
    kept, kept_scores = find_centers(heatmap, 0.1, nms_kernel, top_k)
    assert len(kept) == min(top_k, len(every))
    assert sorted(kept_scores.tolist()) == sorted(scores.tolist())[len(every) - len(kept) :]
    position = kept[:, 0] * size[1] + kept[:, 1]
    assert torch.equal(position, position.sort().values)
    if heatmap.max() > 0.1:
        assert scores.max() == heatmap.max()


@quick
@given(seeds, sizes, st.integers(1, 8))
def test_no_center_is_nearer_than_the_chosen_one(seed, size, num_centers):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(-6, 7, (2, *size), generator=generator) / 2
    mask = torch.rand(size, generator=generator) > 0.3
    centers = torch.stack([torch.randint(0, side, (num_centers,), generator=generator) for side in size], dim=1)
    ids = group_pixels(centers, offsets, mask)
    assert torch.equal(ids > 0, mask)
    for y, x in mask.nonzero().tolist():
        target = torch.tensor([y, x]) + offsets[:, y, x]
        distances = (centers - target).norm(dim=1)
        assert ids[y, x] == int(distances.argmin()) + 1


@quick
@given(seeds, sizes, st.sets(st.integers(0, NUM_CLASSES - 1), min_size=1), st.integers(0, 9))
def test_majority_vote(seed, size, thing_ids, num_instances):
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randint(0, NUM_CLASSES, size, generator=generator)
    instance_ids = torch.randint(0, num_instances + 1, size, generator=generator)
    panoptic, segments = merge(semantic, instance_ids, thing_ids, DIVISOR, 0)
    is_thing = torch.isin(semantic, torch.tensor(sorted(thing_ids)))
    for segment in segments:
        if segment["isthing"]:
            mask = (instance_ids == segment["instance_id"]) & is_thing
            assert torch.equal(panoptic == segment["id"], mask)
            assert segment["category_id"] == int(torch.mode(semantic[mask]).values)


@quick
@given(seeds, sizes, thing_sets)
def test_instances_are_the_thing_segments(seed, size, thing_ids):
    panoptic, segments = run(random_outputs(seed, size), thing_ids)
    instances = instances_of_panoptic(panoptic, segments)
    things = [segment for segment in segments if segment["isthing"]]
    assert instances.pred_classes.tolist() == [segment["category_id"] for segment in things]
    assert instances.pred_masks.sum((1, 2)).tolist() == [segment["area"] for segment in things]
    assert all(0 <= score <= 1 for score in instances.scores.tolist())
