from __future__ import annotations

import pytest
import torch

from panoptic_plugin.postprocessing.merge import merge


def test_instances_take_their_majority_class_and_are_numbered_per_class():
    semantic = torch.tensor([[5, 5, 6, 5, 6, 6]])
    instances = torch.tensor([[1, 1, 1, 2, 3, 3]])
    panoptic, segments = merge(semantic, instances, {5, 6}, 1000, 0)
    assert panoptic.tolist() == [[5001, 5001, 5001, 5002, 6001, 6001]]
    assert [(s["id"], s["area"], s["instance_id"]) for s in segments] == [(5001, 3, 1), (5002, 1, 2), (6001, 2, 3)]


def test_of_equally_frequent_classes_the_smallest_wins():
    panoptic, _ = merge(torch.tensor([[6, 5]]), torch.tensor([[1, 1]]), {5, 6}, 1000, 0)
    assert panoptic.tolist() == [[5001, 5001]]


def test_small_stuff_and_things_without_instance_are_void():
    semantic = torch.tensor([[0, 0, 0, 1, 5]])
    panoptic, segments = merge(semantic, torch.zeros(1, 5, dtype=torch.int64), {5}, 1000, 2)
    assert panoptic.tolist() == [[0, 0, 0, -1, -1]]
    assert [s["id"] for s in segments] == [0]


def test_everything_void():
    panoptic, segments = merge(torch.ones(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64), {5}, 1000, 9)
    assert (panoptic == -1).all()
    assert segments == []


def test_only_things():
    semantic = torch.full((2, 2), 3)
    panoptic, _ = merge(semantic, torch.tensor([[1, 1], [2, 2]]), {0, 1, 2, 3}, 1000, 9)
    assert panoptic.tolist() == [[3001, 3001], [3002, 3002]]


def test_instance_ids_on_stuff_pixels_do_not_count():
    panoptic, _ = merge(torch.tensor([[0, 5]]), torch.tensor([[1, 1]]), {5}, 1000, 0)
    assert panoptic.tolist() == [[0, 5001]]


def test_more_instances_than_the_divisor_can_number():
    semantic = torch.full((1, 12), 5)
    with pytest.raises(ValueError, match="label_divisor 10"):
        merge(semantic, torch.arange(1, 13)[None], {5}, 10, 0)
