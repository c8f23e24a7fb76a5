"""Our targets against Detectron2's generator in the same interpreter: bit-equal, on every output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator

from panoptic_plugin.data.targets import PanopticDeepLabTargets

THINGS = [11, 12, 13]
TENSORS = ("sem_seg", "center", "offset", "sem_seg_weights", "center_weights", "offset_weights")


def random_scene(seed: int, height: int = 61, width: int = 83, crowd: bool = False, largest_id: int = 2**24 - 1):
    """Overlapping boxes and ellipses with random ids, some of them covered completely, and unlabelled pixels."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), dtype=np.int32)
    y, x = np.mgrid[:height, :width]
    segments = []
    chosen = rng.choice(np.arange(1, largest_id, max(1, largest_id // 5000)), 16, replace=False)
    for number, segment_id in enumerate(chosen):
        cy, cx, ry, rx = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, 20), rng.uniform(1, 30)
        ids[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = segment_id
        category = int(rng.choice([0, 3, *THINGS]))
        is_crowd = int(crowd and number % 3 == 0)
        segments.append({"id": int(segment_id), "category_id": category, "iscrowd": is_crowd})
    return ids, segments


def both(options, ids, segments):
    ours = PanopticDeepLabTargets(ignore_label=255, thing_ids=THINGS, **options)(ids, segments)
    theirs = PanopticDeepLabTargetGenerator(ignore_label=255, thing_ids=THINGS, **options)(ids, segments)
    return ours, theirs


def assert_same(ours, theirs, keys=TENSORS):
    for key in keys:
        assert ours[key].dtype == theirs[key].dtype, key
        assert ours[key].shape == theirs[key].shape, key
        assert torch.equal(ours[key], theirs[key]), key


OPTIONS = [
    {},
    {"sigma": 3, "ignore_stuff_in_offset": True},
    {"sigma": 10, "small_instance_area": 300, "small_instance_weight": 3, "ignore_crowd_in_semantic": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_bit_equal(options, seed):
    ids, segments = random_scene(seed)
    ours, theirs = both(options, ids, segments)
    assert set(ours) == set(theirs)
    assert_same(ours, theirs)
    assert np.array_equal(ours["center_points"], theirs["center_points"])


@pytest.mark.parametrize("seed", range(8))
def test_bit_equal_on_crops(seed):
    ids, segments = random_scene(seed, height=150, width=190, largest_id=30000)
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, 100), rng.integers(0, 120)
    crop = ids[top : top + 41, left : left + 53]
    ours, theirs = both({"sigma": 8, "ignore_stuff_in_offset": True}, crop, segments)
    assert_same(ours, theirs)
    assert ours["center_points"] == theirs["center_points"]


def test_bit_equal_without_segments():
    ids = np.zeros((7, 5), dtype=np.int32)
    ours, theirs = both({}, ids, [])
    assert_same(ours, theirs)
    assert ours["center_points"] == theirs["center_points"] == []


@pytest.mark.parametrize("ignore", [False, True])
def test_crowd_has_no_center_where_detectron2_draws_one(ignore):
    """Mended: upstream gives each crowd group a center, whose Gaussian also covers pixels of its neighbours."""
    options = {"sigma": 4, "ignore_crowd_in_semantic": ignore, "small_instance_area": 200, "small_instance_weight": 3}
    ids, segments = random_scene(3, crowd=True)
    ours, theirs = both(options, ids, segments)
    without_crowds = [segment for segment in segments if not segment["iscrowd"]]
    _, expected = both(options, ids, without_crowds)
    assert torch.equal(ours["center"], expected["center"])
    assert torch.equal(ours["offset"], expected["offset"])
    assert ours["center_points"] == expected["center_points"]
    assert len(theirs["center_points"]) > len(ours["center_points"])
    assert_same(ours, theirs, ("sem_seg", "sem_seg_weights", "center_weights", "offset_weights"))
