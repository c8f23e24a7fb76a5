"""Segments of an image as a set: classes, boxes and masks from the pixels of its label."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import torch
from detectron2.utils.logger import _LOG_COUNTER
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import masks_to_boxes

from panoptic_plugin.data.targets_detr import QueryTargets

SLOTS = {0: 7, 1: 24, 2: 26}


def make(**changes):
    return QueryTargets(**{"slots": SLOTS, "num_queries": 100, **changes})


def segment(segment_id, category=0, **more):
    return {"id": segment_id, "category_id": category, "iscrowd": 0, **more}


def test_classes_boxes_and_masks_by_hand():
    ids = np.zeros((4, 10), np.int32)
    ids[1:3, 2:7], ids[3, 9] = 70000, 5
    found = make()(ids, [segment(70000, 1), segment(5, 2)])
    assert found["labels"].tolist() == [24, 26]
    assert found["boxes"].tolist() == pytest.approx(torch.tensor([[0.45, 0.5, 0.5, 0.5], [0.95, 0.875, 0.1, 0.25]]))
    assert np.array_equal(found["segment_index"].numpy(), (ids == 70000) + 2 * (ids == 5))
    assert (found["boxes"].dtype, found["segment_index"].dtype) == (torch.float32, torch.int16)


def test_a_segment_without_pixels_is_none_and_unlisted_pixels_are_background():
    ids = np.full((3, 3), 9, np.int32)
    ids[0] = 4
    found = make()(ids, [segment(8), segment(4, 2)])
    assert found["labels"].tolist() == [26] and found["segment_index"].tolist() == [[1] * 3, [0] * 3, [0] * 3]


@pytest.mark.parametrize("infos", [[], [segment(8)]], ids=["nothing listed", "nothing found"])
def test_no_segments_are_no_targets(infos):
    found = make()(np.zeros((3, 5), np.int32), infos)
    assert found["labels"].shape == (0,) and found["boxes"].shape == (0, 4) and not found["segment_index"].any()


def test_what_the_json_says_of_boxes_and_areas_does_not_matter():
    ids = np.zeros((4, 4), np.int32)
    ids[1:, 1:] = 3
    plain = make()(ids, [segment(3)])
    for more in ({"bbox": []}, {"bbox": [0, 0, 2, 2], "area": 4}, {"bbox": None}):
        assert torch.equal(make()(ids, [segment(3, **more)])["boxes"], plain["boxes"])


@pytest.mark.parametrize("with_crowds", [True, False])
def test_crowds_are_targets_where_wanted(with_crowds):
    ids = np.repeat(np.array([[1, 2]], np.int32), 2, axis=0)
    found = make(with_crowds=with_crowds)(ids, [segment(1, 1, iscrowd=1), segment(2, 2)])
    assert found["labels"].tolist() == ([24, 26] if with_crowds else [26])


def test_more_segments_than_queries_are_reported(caplog):
    _LOG_COUNTER.clear()  # once a process
    ids = np.arange(1, 13, dtype=np.int32).reshape(3, 4)
    with caplog.at_level(logging.WARNING):
        found = make(num_queries=11)(ids, [segment(one) for one in range(1, 13)])
    assert len(found["labels"]) == 12
    assert "An image has 12 segments and the model 11 queries" in caplog.text and "NUM_OBJECT_QUERIES" in caplog.text


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_targets_are_those_of_a_mask_a_segment(seed, height, width):
    random = np.random.default_rng(seed)
    ids = random.choice([0, 5, 300, 70000, 16777215], (height, width)).astype(np.int32)
    infos = [segment(one, int(random.integers(3))) for one in (16777215, 5, 70000)]
    found = make()(ids, infos)
    kept = [one for one in infos if (ids == one["id"]).any()]
    masks = torch.from_numpy(np.array([ids == one["id"] for one in kept]).reshape(-1, height, width))
    assert found["labels"].tolist() == [SLOTS[one["category_id"]] for one in kept]
    for number, mask in enumerate(masks, start=1):
        assert torch.equal(found["segment_index"] == number, mask)
    edges = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    center, size = (edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]
    scale = torch.tensor([width, height] * 2)
    assert torch.allclose(found["boxes"], torch.cat([center, size], dim=1) / scale, atol=1e-6)


def test_a_large_label_takes_far_below_a_second():
    random = np.random.default_rng(0)
    ids = np.kron(random.integers(1, 51, (64, 128)), np.ones((16, 16))).astype(np.int32) * 65793
    infos = [segment(one * 65793) for one in range(1, 51)]
    begin = time.process_time()
    assert len(make()(ids, infos)["labels"]) == 50
    assert time.process_time() - begin < 1
