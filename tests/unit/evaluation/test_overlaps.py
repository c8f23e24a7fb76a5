"""Runs of maps, and the table of pixels that instances share with the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from instance_scenes import CLASSES, THINGS, instance_ids, map_output, masks_output, truth_of

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.evaluation.overlaps import instance_overlaps
from panoptic_plugin.evaluation.runs import pixels_by_pair, shared_runs


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1, 9), (9, 1), (17, 23)])
def test_runs_hold_every_pixel(shape):
    rng = np.random.default_rng(0)
    first, second = rng.integers(-1, 2, shape), rng.integers(0, 3, shape).astype(np.uint8)
    (a, b), lengths = shared_runs(first, second)
    assert np.array_equal(np.repeat(a, lengths), first.ravel()) and np.array_equal(
        np.repeat(b, lengths), second.ravel()
    )
    pairs = pixels_by_pair(a + 1, b, lengths, (3, 3))
    assert pairs.tolist() == [[int(((first == i) & (second == j)).sum()) for j in range(3)] for i in (-1, 0, 1)]


def test_a_constant_map_is_one_run():
    assert shared_runs(np.full((20, 30), 5)).lengths.tolist() == [600]


@pytest.mark.parametrize("width", [160, 157])
def test_masks_that_overlap_each_other(width):
    rng = np.random.default_rng(1)
    ids = instance_ids(rng, height=95, width=width)
    output = masks_output(rng, ids)
    found = instance_overlaps(ids, output)
    assert found.values.tolist() == np.unique(ids).tolist()
    assert found.areas.tolist() == [int((ids == value).sum()) for value in found.values]
    masks = output["instances"].pred_masks.numpy()
    assert found.shared.tolist() == [[int((mask & (ids == value)).sum()) for value in found.values] for mask in masks]


@pytest.mark.parametrize("metric", [CocoAP(class_names=CLASSES, thing_ids=THINGS), CityscapesAP(class_names=CLASSES)])
def test_a_panoptic_map_counts_as_its_masks(metric):
    rng = np.random.default_rng(2)
    ids = instance_ids(rng)
    output, truth = map_output(rng, ids), truth_of("x", ids)
    expected = metric.count(truth, {"instances": output["instances"]})
    assert metric.count(truth, output) == expected
    assert metric.count(truth, {key: output[key] for key in ("panoptic_seg", "segments_info")}) == expected
    output["instances"] = output["instances"][:2]  # somebody filtered them: the masks have the last word
    assert metric.count(truth, output) == metric.count(truth, {"instances": output["instances"]}) != expected


def test_nothing_predicted():
    found = instance_overlaps(np.array([[3, 3, 5]]), {})
    assert (found.values.tolist(), found.areas.tolist(), found.shared.shape) == ([3, 5], [2, 1], (0, 2))


def test_another_size_is_named():
    ids = np.full((8, 8), 7)
    output = masks_output(np.random.default_rng(0), instance_ids(np.random.default_rng(0)))
    with pytest.raises(DatasetError, match="image x: the prediction is 96x160"):
        CocoAP(class_names=CLASSES, thing_ids=THINGS).count(truth_of("x", ids), output)
    segments = {"panoptic_seg": (torch.zeros(2, 2), None), "segments_info": [{"id": 1, "category_id": 1, "score": 1.0}]}
    with pytest.raises(DatasetError, match="image x: the prediction is 2x2"):
        CocoAP(class_names=CLASSES, thing_ids=THINGS).count(truth_of("x", ids), segments)
