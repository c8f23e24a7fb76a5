"""Masks and semantic logits of an image to its result."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from panoptic_plugin.systems.efficientps.results import MaskResults
from panoptic_plugin.systems.efficientps.solov2_masks import SOLOv2Masks

FUSION = {"score_threshold": 0.3, "overlap_threshold": 0.5, "stuff_area": 1}


def _results(**arguments) -> MaskResults:
    defaults = {
        "thing_ids": (2, 5),
        "label_divisor": 1000,
        "mask_threshold": 0.5,
        "predict_instances": True,
        "return_fused_logits": False,
        "fusion_arguments": FUSION,
    }
    return MaskResults(**{**defaults, **arguments})


def _outputs(num_masks: int = 3) -> tuple[torch.Tensor, SOLOv2Masks]:
    generator = torch.Generator().manual_seed(3)
    smooth = torch.randn(6 + num_masks, 4, 6, generator=generator) * 4
    maps = F.interpolate(smooth[None], size=(16, 24), mode="bilinear")[0]
    scores = torch.tensor([0.9, 0.6, 0.2])[:num_masks]
    return maps[:6], SOLOv2Masks(maps[6:], torch.tensor([1, 0, 1])[:num_masks], scores)


SIZES = {"image_size": (61, 90), "padded_size": (64, 96), "size": (37, 101)}


def test_result_has_the_size_asked_for_and_the_categories_of_the_dataset():
    result = _results().of_image(*_outputs(), **SIZES)
    assert result["sem_seg"].shape == (6, 37, 101)
    assert result["panoptic_seg"][0].shape == (37, 101)
    assert result["instances"].image_size == (37, 101)
    assert result["instances"].pred_classes.tolist() == [5, 2, 5]
    things = {one["category_id"] for one in result["segments_info"] if one["isthing"]}
    assert things <= {2, 5}
    assert things


def test_ids_of_the_map_are_those_of_the_segments():
    result = _results().of_image(*_outputs(), **SIZES)
    ids, counts = result["panoptic_seg"][0].unique(return_counts=True)
    found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    found.pop(-1, None)
    assert found == {one["id"]: one["area"] for one in result["segments_info"]}
    assert all(one["id"] // 1000 == one["category_id"] for one in result["segments_info"])


def test_padding_is_cut_off_before_anything_is_resized():
    semantic, masks = _outputs()
    spoiled = SOLOv2Masks(masks.logits.clone(), masks.classes, masks.scores)
    changed = semantic.clone()
    # Rows from 61 on, columns from 90 on: the last stride-4 cell that reaches them is 15 (60 to 63) and 23 (92 to 95);
    # interpolation carries a cell at most 4 pixels further.
    changed[:, :, 23], spoiled.logits[:, :, 23] = 1e3, 1e3
    sizes = {"image_size": (64, 88), "padded_size": (64, 96), "size": (64, 88)}
    before, after = _results().of_image(semantic, masks, **sizes), _results().of_image(changed, spoiled, **sizes)
    assert torch.equal(before["sem_seg"], after["sem_seg"])
    assert torch.equal(before["instances"].pred_masks, after["instances"].pred_masks)


def test_instances_are_where_the_enlarged_probability_exceeds_the_threshold():
    semantic, masks = _outputs()
    found = _results(mask_threshold=0.7).of_image(semantic, masks, **SIZES)["instances"]
    padded = F.interpolate(masks.logits.sigmoid()[None], size=(64, 96), mode="bilinear")[..., :61, :90]
    expected = F.interpolate(padded, size=(37, 101), mode="bilinear")[0] > 0.7
    assert torch.equal(found.pred_masks, expected)
    for mask, box in zip(found.pred_masks, found.pred_boxes.tensor.tolist(), strict=True):
        y, x = mask.nonzero(as_tuple=True)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_below_the_score_threshold_are_instances_and_no_segments():
    result = _results().of_image(*_outputs(), **SIZES)
    assert result["instances"].scores.tolist() == pytest.approx([0.9, 0.6, 0.2])
    assert {round(one["score"], 3) for one in result["segments_info"] if one["isthing"]} <= {0.9, 0.6}


def test_image_without_masks():
    semantic, masks = _outputs(0)
    result = _results().of_image(semantic, masks, **SIZES)
    assert len(result["instances"]) == 0
    assert result["instances"].pred_masks.shape == (0, 37, 101)
    assert result["instances"].pred_boxes.tensor.shape == (0, 4)
    assert all(not one["isthing"] for one in result["segments_info"])


def test_masks_without_a_pixel_are_no_instances():
    semantic, masks = _outputs()
    masks.logits[1] = -5
    assert _results().of_image(semantic, masks, **SIZES)["instances"].pred_classes.tolist() == [5, 5]


def test_categories_in_place_of_logits():
    logits = _results().of_image(*_outputs(), **SIZES)["sem_seg"]
    labels = _results().of_image(*_outputs(), **SIZES, return_logits=False)["sem_seg"]
    assert torch.equal(labels, logits.argmax(dim=0))


def test_fused_logits_are_those_the_segments_come_from():
    result = _results(return_fused_logits=True, predict_instances=False).of_image(*_outputs(), **SIZES)
    things = [one for one in result["segments_info"] if one["isthing"]]
    assert result["fused_logits"].shape == (4 + 2, 37, 101)
    winners = result["fused_logits"].argmax(dim=0)
    for number, segment in enumerate(things):
        assert torch.equal(winners == 4 + number, result["panoptic_seg"][0] == segment["id"])
    assert "instances" not in result
