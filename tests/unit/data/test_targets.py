from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.label_runs import find_runs
from panoptic_plugin.data.targets import PanopticDeepLabTargets, panoptic_deeplab

IDS = np.array([[7, 7, 0, 9, 9], [7, 70000, 70000, 9, 5], [5, 5, 70000, 70000, 5]], dtype=np.int32)
SEGMENTS = [
    {"id": 3, "category_id": 1, "iscrowd": 0},  # without a pixel
    {"id": 70000, "category_id": 1, "iscrowd": 0},
    {"id": 5, "category_id": 1, "iscrowd": 1},
    {"id": 9, "category_id": 0, "iscrowd": 0},
    {"id": 7, "category_id": 1, "iscrowd": 0},
]


def test_runs_of_a_label():
    runs = find_runs(IDS, [70000, 9])
    assert runs.lengths.tolist() == [2, 1, 2, 1, 2, 1, 1, 2, 2, 1]
    assert runs.numbers.tolist() == [0, 0, 2, 0, 1, 2, 0, 0, 1, 0]
    assert (runs.y.tolist(), runs.x.tolist()) == ([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], [0, 2, 3, 0, 1, 3, 4, 0, 2, 4])
    assert runs.areas().tolist() == [8, 4, 3]
    centers_y, centers_x = runs.centers_of_mass()
    assert (centers_y[1], centers_x[1]) == (1.5, 2.0)
    assert np.array_equal(runs.spread(runs.numbers) == 1, IDS == 70000)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (2, 3)])
def test_a_label_without_pixels_or_segments(shape):
    runs = find_runs(np.full(shape, -1), [])
    assert runs.spread(runs.numbers).shape == shape
    assert not runs.numbers.any()
    assert np.isnan(find_runs(np.zeros(shape, int), [4]).centers_of_mass()[0][1])


def test_instance_ids_number_the_center_points():
    plain = PanopticDeepLabTargets(ignore_label=255, thing_ids=[1])(IDS, SEGMENTS)
    targets = PanopticDeepLabTargets(ignore_label=255, thing_ids=[1], with_instance_ids=True)(IDS, SEGMENTS)
    ids = targets.pop("instance_ids")
    assert ids.dtype == torch.int64 and set(targets) == set(plain)
    assert ids.tolist() == [[2, 2, 0, 0, 0], [2, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    for number, (y, x) in enumerate(targets["center_points"], start=1):
        found = (ids == number).nonzero().double().mean(dim=0)
        assert found.tolist() == pytest.approx([y, x])


@pytest.mark.parametrize("mode, has_ids", [(None, False), ("none", False), ("instance_ce", True), ("hist_ce", True)])
def test_instance_ids_are_made_where_the_loss_needs_them(mode, has_ids):
    cfg = get_cfg()
    cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT = CfgNode({"MODE": mode} if mode else {})
    metadata = Metadata(ignore_label=255, thing_dataset_id_to_contiguous_id={3: 1})
    assert panoptic_deeplab(cfg, metadata).with_instance_ids == has_ids
