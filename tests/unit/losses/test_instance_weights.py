"""Weights of pixels by how well their object is classified: the formulas by loops, and what must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from panoptic_plugin.losses.instance_weights import InstanceWeightOptions, instance_factors, instance_weight_map

NUM_CLASSES, THINGS, IGNORE = 5, (2, 3, 4), 255
CE = InstanceWeightOptions("instance_ce")


def scene(seed=0, num_images=2, size=(24, 32)):
    """Arguments of the weights: overlapping boxes of things on stuff, a part without a label, small objects at 3."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 2, (num_images, *size))
    ids = np.zeros_like(targets)
    for image in range(num_images):
        for number in range(1, 6):
            y, x = random.integers(0, size[0] - 6), random.integers(0, size[1] - 6)
            box = (image, slice(y, y + random.integers(3, 12)), slice(x, x + random.integers(3, 12)))
            ids[box], targets[box] = number, random.choice(THINGS)
    targets[:, :3, :5] = IGNORE
    ids[:, :3, :2] = 0
    base = np.where((ids % 2 == 1) & (targets != IGNORE), 3.0, 1.0)
    logits = torch.randn((num_images, NUM_CLASSES, *size), generator=torch.Generator().manual_seed(seed)) * 2
    return {
        "logits": logits,
        "targets": torch.from_numpy(targets),
        "instance_ids": torch.from_numpy(ids),
        "base_weights": torch.from_numpy(base).float(),
    }


def factors(parts, options=CE, **more):
    return instance_factors(options, **{key: parts[key] for key in ("logits", "targets", "instance_ids")}, **more)


def by_loops(parts, options, groups=None):
    """The same from the formulas, object after object, in double precision."""
    probability = parts["logits"].double().softmax(dim=1).numpy()
    targets, ids, base = (parts[key].numpy() for key in ("targets", "instance_ids", "base_weights"))
    groups = ids if groups is None else groups.numpy()
    labelled = targets != IGNORE
    factor = np.ones(targets.shape)
    for image in range(len(targets)):
        for one in range(1, ids[image].max() + 1):
            pixels = np.argwhere((ids[image] == one) & labelled[image])
            if not len(pixels):
                continue
            costs = [-math.log(max(probability[image, targets[image, y, x], y, x], 1e-6)) for y, x in pixels]
            u = 1 + options.beta * min(sum(costs) / len(costs), options.tau) / options.tau
            if options.area_gamma:
                u *= min(max((options.area_reference / len(pixels)) ** options.area_gamma, 1), 3)
            for y, x in pixels:
                group = groups[image, y, x]
                inside = (groups[image] == group) & labelled[image]
                share = (targets[image][inside] == targets[image, y, x]).mean() if group else 0.0
                factor[image, y, x] = u + options.consistency * (1 - share)
    kept = np.where(labelled, base, 0)
    weights = kept * factor
    return weights * kept.sum() / weights.sum()


@pytest.mark.parametrize(
    "options",
    [
        CE,
        InstanceWeightOptions("instance_ce", beta=5, tau=0.5),
        InstanceWeightOptions("instance_ce", area_gamma=0.5, area_reference=60),
        InstanceWeightOptions("instance_ce", consistency=1.5),
    ],
    ids=["plain", "beta and tau", "area", "consistency"],
)
def test_equals_a_loop_over_the_objects(options):
    parts = scene()
    groups = torch.from_numpy(np.random.default_rng(1).integers(0, 4, parts["targets"].shape))
    found = instance_weight_map(options, **parts, groups=groups)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), by_loops(parts, options, groups), rtol=1e-6, atol=1e-6)


def test_histograms_equal_a_loop():
    parts = scene()
    groups = torch.from_numpy(np.random.default_rng(1).integers(0, 4, parts["targets"].shape))
    found = factors(parts, InstanceWeightOptions("hist_ce"), groups=groups).numpy()
    targets, predicted = parts["targets"].numpy(), parts["logits"].argmax(dim=1).numpy()
    expected = np.ones(targets.shape)
    for image in range(2):
        for group in (1, 2, 3):
            inside = (groups[image].numpy() == group) & (targets[image] != IGNORE)
            true, said = (
                np.bincount(m[image][inside], minlength=NUM_CLASSES) / inside.sum() for m in (targets, predicted)
            )
            expected[image][inside] = 1 + max(-(true * np.log(said + 1e-7)).sum(), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_factors_are_between_1_and_1_plus_beta_and_exactly_1_on_stuff():
    parts = scene()
    parts["logits"] *= 50
    found = factors(parts)
    assert found.min() == 1 and found.max() <= 3
    assert found.max() > 2.5
    is_thing = (parts["instance_ids"] > 0) & (parts["targets"] != IGNORE)
    assert (found[~is_thing] == 1).all()


def test_weights_have_no_gradient():
    parts = scene()
    parts["logits"].requires_grad_()
    weights = instance_weight_map(CE, **parts)
    assert not weights.requires_grad
    loss = (F.cross_entropy(parts["logits"], parts["targets"], ignore_index=IGNORE, reduction="none") * weights).sum()
    (gradient,) = torch.autograd.grad(loss, parts["logits"])
    again = scene()["logits"].requires_grad_()
    loss = (F.cross_entropy(again, parts["targets"], ignore_index=IGNORE, reduction="none") * weights).sum()
    assert torch.equal(gradient, torch.autograd.grad(loss, again)[0])


def test_a_perfect_network_has_exactly_the_weights_of_small_areas():
    parts = scene()
    known = parts["targets"].clamp(max=NUM_CLASSES - 1)
    parts["logits"] = F.one_hot(known, NUM_CLASSES).permute(0, 3, 1, 2).float() * 1000
    labelled = parts["targets"] != IGNORE
    found = instance_weight_map(CE, **parts)
    assert torch.equal(found[labelled], parts["base_weights"][labelled])
    assert torch.equal(instance_weight_map(InstanceWeightOptions(), **parts), parts["base_weights"])
    assert (instance_weight_map(InstanceWeightOptions("none"), **parts) == 1).all()


def test_a_worse_object_weighs_more():
    parts = scene()
    values = []
    for sure in (8.0, 3.0, 1.0, 0.0, -3.0):
        known = parts["targets"].clamp(max=NUM_CLASSES - 1)
        parts["logits"] = F.one_hot(known, NUM_CLASSES).permute(0, 3, 1, 2).float() * sure
        values.append(float(factors(parts)[0][(parts["instance_ids"] == 2)[0]].max()))
    assert values == sorted(values) and values[0] < 1.01 and values[-1] == 3


def test_numbers_of_the_objects_do_not_matter():
    parts = scene()
    order = torch.tensor([0, 4, 1, 5, 3, 2])
    renamed = {**parts, "instance_ids": order[parts["instance_ids"]]}
    # Not bit for bit: double sums are cast to float once.
    torch.testing.assert_close(instance_weight_map(CE, **renamed), instance_weight_map(CE, **parts), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["instance_ce", "hist_ce"])
def test_the_sum_of_the_weights_stays(mode):
    parts = scene()
    found = instance_weight_map(InstanceWeightOptions(mode), **parts)
    labelled = parts["targets"] != IGNORE
    assert float(found.sum()) == pytest.approx(float(parts["base_weights"][labelled].sum()), rel=1e-6)
    assert (found[~labelled] == 0).all()


@pytest.mark.parametrize("mode", ["instance_ce", "hist_ce"])
@pytest.mark.parametrize("emptied", ["instance_ids", "targets"])
def test_without_objects_or_labels_nothing_is_nan(mode, emptied):
    parts = scene()
    parts[emptied] = torch.full_like(parts[emptied], 0 if emptied == "instance_ids" else IGNORE)
    found = instance_weight_map(InstanceWeightOptions(mode, consistency=1.0), **parts)
    assert found.isfinite().all()
    labelled = parts["targets"] != IGNORE
    torch.testing.assert_close(found[labelled], parts["base_weights"][labelled])


def test_a_missed_object_weighs_more_than_a_found_one():
    """Two cars, one seen as road: the pixels of that one are worth more."""
    targets = torch.zeros((1, 10, 20), dtype=torch.int64)
    ids = torch.zeros_like(targets)
    targets[0, 2:8, 2:8], targets[0, 2:8, 12:18] = 2, 2
    ids[0, 2:8, 2:8], ids[0, 2:8, 12:18] = 1, 2
    seen = targets.clone()
    seen[ids == 2] = 0
    logits = F.one_hot(seen, NUM_CLASSES).permute(0, 3, 1, 2).float() * 6
    weights = instance_weight_map(CE, logits=logits, targets=targets, instance_ids=ids)
    found, missed = weights[ids == 1].unique(), weights[ids == 2].unique()
    assert len(found) == len(missed) == 1
    assert missed > 2.5 * found
    assert (weights > 0).all()  # nothing is left without supervision


def test_logits_of_a_quarter_of_the_size_are_enlarged():
    parts = scene()
    low = F.avg_pool2d(parts["logits"], 4)
    enlarged = F.interpolate(low, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.equal(
        instance_weight_map(CE, **{**parts, "logits": low}), instance_weight_map(CE, **{**parts, "logits": enlarged})
    )


@pytest.mark.parametrize(
    "wrong", [{"mode": "loud"}, {"tau": 0.0}, {"beta": -1.0}, {"apply_to": ("boundary",)}, {"beta": float("nan")}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InstanceWeightOptions(**wrong)
