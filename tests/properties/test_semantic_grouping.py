"""Grouping by class and offset: against a plain loop over all centers, and what must hold for it on any input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from grouping_scenes import MODES, SIGMA, WRONG, make_scene, predict, quality
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from panoptic_plugin.postprocessing import cheapest_centers as cheapest
from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.postprocessing.resize import offsets_to_output_size, to_output_size
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions, group_with_semantics

NUM_CLASSES, THINGS, DIVISOR, EPS = 6, (2, 3, 5), 1000, 1e-6
seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))
weights = st.sampled_from([0.0, 0.3, 1.0, 4.0, 50.0])
votes = st.sampled_from(["soft", "hard", "log"])
quick = settings(max_examples=15, deadline=None)


def random_scene(seed, size, num_centers=5):
    """Probabilities (C, H, W), centers (K, 2), offsets (2, H, W), all without ties."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (torch.randn((NUM_CLASSES, *size), generator=generator) * 1.5).softmax(dim=0)
    centers = torch.rand((num_centers, 2), generator=generator) * torch.tensor(size)
    return probabilities, centers, torch.randn((2, *size), generator=generator) * 4


def group(scene, thing_ids=THINGS, **options):
    probabilities, centers, offsets = scene
    return group_with_semantics(
        centers, offsets, probabilities, thing_ids, GroupingOptions(**{"mode": "semantic_map", "sigma": 2.0, **options})
    )


def by_loops(scene, *, weight, sigma=2.0, iterations=3, vote="soft", strict=False, things=THINGS):
    """Instance ids, classes and the energy before and after each iteration, from the formulas, in double precision."""
    probabilities, centers, offsets = (each.double().numpy() for each in scene)
    labels = probabilities.argmax(axis=0)
    places = [tuple(place) for place in np.argwhere(np.isin(labels, things))]
    distance = {p: np.hypot(*(centers - (np.array(p) + offsets[:, p[0], p[1]])).T) for p in places}
    chosen = {p: int(distance[p].argmin()) for p in places}

    def log_of(p, category):
        return math.log(max(probabilities[category][p], EPS))

    def ballot(p, category):
        hard = float(labels[p] == category)
        return {"soft": probabilities[category][p], "hard": hard, "log": log_of(p, category)}[vote]

    def elect(before):
        classes = list(before)
        for k in range(len(centers)):
            members = [p for p in places if chosen[p] == k]
            if members:
                classes[k] = max(things, key=lambda c: (sum(ballot(p, c) for p in members), -c))
        return classes

    def energy(p, k, classes):
        return distance[p][k] ** 2 / (2 * sigma**2) - weight * log_of(p, classes[k])

    classes, energies = elect([-1] * len(centers)), []
    for _ in range(iterations):
        energies.append(sum(energy(p, chosen[p], classes) for p in places))
        allowed = [k for k in range(len(centers)) if classes[k] >= 0]
        for p in places:
            if strict:
                likeliest = max({classes[k] for k in allowed}, key=lambda c: probabilities[c][p])
                chosen[p] = min((k for k in allowed if classes[k] == likeliest), key=lambda k: distance[p][k])
            elif weight > 0:
                chosen[p] = min(allowed, key=lambda k: energy(p, k, classes))
        classes = elect(classes)
    ids = np.zeros(labels.shape, int)
    for p in places:
        ids[p] = chosen[p] + 1
    return ids, [c if (ids == k + 1).any() else -1 for k, c in enumerate(classes)], energies


@quick
@given(seeds, sizes, weights, votes)
def test_equals_a_loop_over_all_centers(seed, size, weight, vote):
    scene = random_scene(seed, size)
    ids, classes = group(scene, weight=weight, vote=vote)
    expected, expected_classes, _ = by_loops(scene, weight=weight, vote=vote)
    assert np.array_equal(ids.numpy(), expected)
    assert classes.tolist() == expected_classes


@quick
@given(seeds, sizes)
def test_class_strict_equals_a_loop(seed, size):
    scene = random_scene(seed, size)
    ids, classes = group(scene, mode="class_strict")
    expected, expected_classes, _ = by_loops(scene, weight=1, strict=True)
    assert np.array_equal(ids.numpy(), expected)
    assert classes.tolist() == expected_classes


def outputs(seed, size):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((NUM_CLASSES, *size), generator=generator) * 2
    heatmap = torch.randint(0, 5, (1, *size), generator=generator) / 4
    return logits, heatmap, torch.randn((2, *size), generator=generator) * 4


def panoptic(parts, thing_ids=THINGS, **options):
    return panoptic_from_outputs(
        *parts, thing_ids=thing_ids, label_divisor=DIVISOR, stuff_area=0, threshold=0.1, nms_kernel=3, top_k=20,
        grouping=GroupingOptions(**{"sigma": 2.0, **options}),
    )  # fmt: skip


@quick
@given(seeds, sizes)
def test_invariant_1_without_weight_and_with_hard_votes_it_is_the_plain_rule(seed, size):
    parts = outputs(seed, size)
    plain = panoptic(parts)
    assert_same_result(panoptic(parts, mode="semantic_map", weight=0.0, vote="hard"), plain)


def assert_same_result(found, expected):
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


@quick
@given(seeds, sizes, weights, votes)
def test_invariant_2_nothing_changes_where_classes_and_groups_agree(seed, size, weight, vote):
    probabilities, centers, offsets = random_scene(seed, size)
    nearest, _ = group((probabilities, centers, offsets), thing_ids=range(NUM_CLASSES), weight=0.0, vote="hard")
    # Each group's pixels become of one class, the number of its center decides which.
    wanted = (nearest - 1) % len(THINGS)
    top = probabilities.max(dim=0).values
    for position, category in enumerate(THINGS):
        probabilities[category] = torch.where(wanted == position, top + 0.1, probabilities[category] * 0.5)
    probabilities = probabilities / probabilities.sum(dim=0)
    scene = (probabilities, centers, offsets)
    plain, _ = group(scene, weight=0.0, vote="hard")
    for mode in ("semantic_map", "class_strict"):
        ids, classes = group(scene, mode=mode, weight=weight, vote=vote)
        assert torch.equal(ids, plain)
        assert all(c == -1 or c == THINGS[k % len(THINGS)] for k, c in enumerate(classes.tolist()))


@quick
@given(seeds, sizes, weights, votes)
def test_invariants_3_4_5_stuff_stays_masks_are_disjoint_and_no_thing_is_void(seed, size, weight, vote):
    parts = outputs(seed, size)
    labels = parts[0].argmax(dim=0)
    is_thing = torch.isin(labels, torch.tensor(THINGS))
    has_centers = len(find_centers(parts[1], 0.1, 3, 20)[0]) > 0
    for mode in ("semantic_map", "class_strict"):
        ids, segments = panoptic(parts, mode=mode, weight=weight, vote=vote)
        assert torch.equal(ids[~is_thing], labels[~is_thing] * DIVISOR)
        assert torch.equal(ids == -1, is_thing & (not has_centers))
        things = [one for one in segments if one["isthing"]]
        assert sum(one["area"] for one in things) == int(is_thing.sum()) * has_centers
        assert all(one["area"] == int((ids == one["id"]).sum()) > 0 for one in things)
        assert all(one["id"] // DIVISOR == one["category_id"] for one in segments)
        for category in THINGS:
            numbers = sorted(one["id"] % DIVISOR for one in things if one["category_id"] == category)
            assert numbers == list(range(1, len(numbers) + 1))
        assert all(0 <= one["score"] <= 1 for one in things)


@quick
@given(seeds, sizes, weights, st.permutations(range(5)), st.permutations(range(NUM_CLASSES)))
def test_invariant_6_order_of_centers_and_classes_flips_and_shifts(seed, size, weight, order, names):
    probabilities, centers, offsets = random_scene(seed, size)
    ids, classes = group((probabilities, centers, offsets), weight=weight)
    order, names = torch.tensor(order), torch.tensor(names)
    shuffled, shuffled_classes = group((probabilities, centers[order], offsets), weight=weight)
    back = torch.cat([torch.zeros(1, dtype=torch.int64), order + 1])
    assert torch.equal(back[shuffled], ids)
    assert torch.equal(shuffled_classes, classes[order])
    renamed = torch.empty_like(probabilities)
    renamed[names] = probabilities
    again, again_classes = group((renamed, centers, offsets), thing_ids=[int(names[c]) for c in THINGS], weight=weight)
    assert torch.equal(again, ids)
    assert torch.equal(again_classes, torch.where(classes >= 0, names[classes.clamp(min=0)], -1))
    mirrored_centers = torch.stack([centers[:, 0], size[1] - 1 - centers[:, 1]], dim=1)
    mirrored_offsets = torch.stack([offsets[0].flip(-1), -offsets[1].flip(-1)])
    mirrored, _ = group((probabilities.flip(-1), mirrored_centers, mirrored_offsets), weight=weight)
    assert (mirrored.flip(-1) != ids).sum() <= 1  # a tie within rounding may fall the other way
    parts = outputs(seed, size)
    shifted = (parts[0] + 3.25, *parts[1:])
    assert torch.equal(
        panoptic(parts, mode="semantic_map", weight=weight)[0], panoptic(shifted, mode="semantic_map", weight=weight)[0]
    )


@quick
@given(seeds, sizes, st.sampled_from(["semantic_map", "class_strict"]))
def test_invariant_7_a_large_weight_keeps_pixels_with_centers_of_their_class(seed, size, mode):
    scene = random_scene(seed, size)
    # One grouping by the first vote's classes: after it the classes may be chosen anew.
    _, first_classes = group(scene, weight=0.0)
    ids, _ = group(scene, mode=mode, weight=1e9, iterations=1)
    labels = scene[0].argmax(dim=0)
    for category in THINGS:
        if (first_classes == category).any():
            given_to = ids[labels == category] - 1
            assert bool((first_classes[given_to] == category).all())


@quick
@given(seeds, sizes, st.sampled_from([0.3, 1.0, 4.0]))
def test_invariant_8_the_energy_never_rises_with_log_votes(seed, size, weight):
    scene = random_scene(seed, size)
    found = [energy_of(scene, *group(scene, weight=weight, vote="log", iterations=n), weight) for n in range(5)]
    assert all(after <= before + 1e-6 for before, after in zip(found, found[1:], strict=False))


def energy_of(scene, ids, classes, weight, sigma=2.0):
    """The sum that the grouping lowers."""
    probabilities, centers, offsets = scene
    y, x = torch.nonzero(ids, as_tuple=True)
    k = ids[y, x] - 1
    squared = (y + offsets[0, y, x] - centers[k, 0]) ** 2 + (x + offsets[1, y, x] - centers[k, 1]) ** 2
    log = probabilities[classes[k], y, x].clamp(min=EPS).log()
    return float((squared.double() / (2 * sigma**2) - weight * log.double()).sum())


@quick
@given(seeds, sizes, weights, votes)
def test_invariant_9_parts_and_the_way_of_a_gpu_give_the_same(seed, size, weight, vote):
    scene = random_scene(seed, size)
    expected = group(scene, weight=weight, vote=vote)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cheapest, "PIXELS_AT_A_TIME", 3)
        found = group(scene, weight=weight, vote=vote)
        patch.setattr(device, "is_cpu", lambda _: False)
        patch.setattr(cheapest, "DISTANCES_AT_A_TIME", 20)
        other = group(scene, weight=weight, vote=vote)
    for ids, classes in (found, other):
        assert torch.equal(ids, expected[0])
        assert torch.equal(classes, expected[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_invariant_9_a_gpu_gives_the_same():
    for mode in MODES:
        scene = make_scene(3, mode)
        options = GroupingOptions("semantic_map", sigma=SIGMA)
        expected = predict(scene, options)
        scene.logits, scene.heatmap, scene.offsets = (p.cuda() for p in (scene.logits, scene.heatmap, scene.offsets))
        found = predict(scene, options)
        assert (found["panoptic_seg"][0].cpu() != expected["panoptic_seg"][0]).sum() <= 2


def test_invariant_11_half_the_size_gives_the_same_instances():
    """A prediction at half the size, and the same enlarged as results are, lengths of the grouping with it."""
    options = GroupingOptions("semantic_map", sigma=SIGMA / 2)
    for seed in range(3):
        scene = make_scene(seed, "leak and patches")
        low = [F.avg_pool2d(each[None], 2)[0] for each in (scene.logits, scene.heatmap, scene.offsets / 2)]
        sizes = (low[0].shape[1:], scene.truth.shape)
        enlarged = (
            to_output_size(low[0], *sizes),
            to_output_size(low[1], *sizes),
            offsets_to_output_size(low[2], *sizes),
        )
        small, large = (
            predict(replace(scene, logits=parts[0], heatmap=parts[1], offsets=parts[2]), rule)
            for parts, rule in ((low, options), (enlarged, options.scaled(2)))
        )
        assert [one["category_id"] for one in small["segments_info"]] == [
            one["category_id"] for one in large["segments_info"]
        ]
        ids = small["panoptic_seg"][0].repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert (ids == large["panoptic_seg"][0]).float().mean() > 0.96  # pixels at edges, which are interpolated


@pytest.mark.parametrize("confidence", WRONG)
@pytest.mark.parametrize("mode", MODES)
def test_regression_never_below_the_plain_rule(mode, confidence):
    """For more scenes: python tests/benchmarks/grouping_quality.py --scenes 60"""
    scenes = [make_scene(seed, mode, confidence) for seed in range(5)]
    plain = quality(scenes, [predict(scene, GroupingOptions()) for scene in scenes])
    both = quality(scenes, [predict(scene, GroupingOptions("semantic_map", sigma=SIGMA)) for scene in scenes])
    assert both["PQ_th"] >= plain["PQ_th"] - 1e-9
    if "leak" in mode:
        assert both["PQ_th"] > plain["PQ_th"]
