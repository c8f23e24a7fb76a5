from __future__ import annotations

import torch

from panoptic_plugin.postprocessing import grouping
from panoptic_plugin.postprocessing.grouping import group_pixels


def test_without_centers_nothing_is_grouped():
    ids = group_pixels(torch.zeros((0, 2), dtype=torch.int64), torch.zeros(2, 3, 4), torch.ones(3, 4, dtype=torch.bool))
    assert torch.equal(ids, torch.zeros(3, 4, dtype=torch.int64))


def test_without_thing_pixels_nothing_is_grouped():
    ids = group_pixels(torch.tensor([[1, 1]]), torch.zeros(2, 3, 4), torch.zeros(3, 4, dtype=torch.bool))
    assert torch.equal(ids, torch.zeros(3, 4, dtype=torch.int64))


def test_offsets_point_to_the_center():
    offsets = torch.zeros(2, 1, 10)
    offsets[1, 0, 0] = 9.0
    ids = group_pixels(torch.tensor([[0, 1], [0, 8]]), offsets, torch.ones(1, 10, dtype=torch.bool))
    assert ids.tolist() == [[2, 1, 1, 1, 1, 2, 2, 2, 2, 2]]


def test_of_equally_near_centers_the_first_counts():
    ids = group_pixels(torch.tensor([[0, 4], [0, 0]]), torch.zeros(2, 1, 5), torch.ones(1, 5, dtype=torch.bool))
    assert ids.tolist() == [[2, 2, 1, 1, 1]]


def test_chunks_do_not_change_the_result(monkeypatch):
    centers = torch.randint(0, 30, (9, 2))
    offsets, mask = torch.randn(2, 30, 30) * 5, torch.rand(30, 30) > 0.2
    whole = group_pixels(centers, offsets, mask)
    monkeypatch.setattr(grouping, "PIXELS_AT_A_TIME", 50)
    assert torch.equal(group_pixels(centers, offsets, mask), whole)
