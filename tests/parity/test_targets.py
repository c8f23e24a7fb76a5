"""Our targets against Detectron2's generator in the same interpreter: bit-equal, on every output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

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


def assert_same_to_the_bit(options, ids, segments):
    ours, theirs = both(options, ids, segments)
    assert set(ours) == set(theirs)
    assert_same(ours, theirs)
    assert all(ours[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in TENSORS)
    assert ours["center_points"] == theirs["center_points"]


# Height, width, segments (all in the picture where there are pixels enough), ids.
SHAPES = {
    "a row": (1, 97, 9, 30000),
    "a column": (89, 1, 9, 30000),
    "a pixel": (1, 1, 1, 30000),
    "more than a byte counts": (40, 51, 300, 2**24 - 1),
    "small ids": (33, 47, 40, 60),
    "as many segments as pixels": (5, 7, 35, 70000),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_bit_equal_whatever_the_shape_and_the_ids(name, dtype):
    height, width, num_segments, largest_id = SHAPES[name]
    rng = np.random.default_rng(height)
    chosen = rng.choice(np.arange(1, largest_id + 1), num_segments, replace=False)
    ids = rng.choice([0, *chosen], (height, width)).astype(dtype)
    ids.reshape(-1)[: len(chosen)] = chosen
    segments = [{"id": int(one), "category_id": int(rng.choice([0, 3, *THINGS])), "iscrowd": 0} for one in chosen]
    for options in OPTIONS:
        assert_same_to_the_bit(options, ids, segments)


@pytest.mark.parametrize("flipped", [np.s_[:, ::-1], np.s_[::-1], np.s_[7:40:2, 3:60]])
def test_bit_equal_on_views(flipped):
    ids, segments = random_scene(5)
    assert_same_to_the_bit({"sigma": 4}, ids[flipped], segments)


def test_a_center_between_two_pixels_goes_to_the_even_one():
    ids = np.zeros((12, 15), dtype=np.int32)
    ids[2:4, 3:5], ids[5:9, 6:14] = 1, 2
    segments = [{"id": number, "category_id": 11, "iscrowd": 0} for number in (1, 2)]
    assert_same_to_the_bit({"sigma": 1}, ids, segments)


@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.integers(0, 7), st.booleans())
@settings(max_examples=60, deadline=None)
def test_bit_equal_on_any_label(seed, height, width, num_segments, smooth):
    """Ids that no segment has, segments without pixels, the id 0 as a segment, labels in blocks and in dust."""
    rng = np.random.default_rng(seed)
    pool = rng.choice(2**24, 9, replace=False) * rng.integers(0, 2, 9)
    block = 4 if smooth else 1
    small = rng.choice(pool, (height // block + 1, width // block + 1))
    ids = np.kron(small, np.ones((block, block), dtype=np.int64))[:height, :width].astype(np.int32)
    listed = rng.permutation(np.unique(pool))[:num_segments]
    segments = [{"id": int(one), "category_id": int(rng.choice([0, 3, *THINGS])), "iscrowd": 0} for one in listed]
    options = {
        "sigma": int(rng.integers(1, 9)),
        "ignore_stuff_in_offset": bool(rng.integers(2)),
        "small_instance_area": int(rng.integers(0, 200)),
        "small_instance_weight": int(rng.integers(0, 5)),
        "ignore_crowd_in_semantic": bool(rng.integers(2)),
    }
    assert_same_to_the_bit(options, ids, segments)
