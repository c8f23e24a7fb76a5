from __future__ import annotations

import torch
from detectron2.structures import BitMasks

from panoptic_plugin.postprocessing import instances
from panoptic_plugin.postprocessing.instances import boxes_of_masks, instances_of_panoptic, mean_class_probability


def test_boxes_equal_those_of_detectron2():
    masks = torch.rand(20, 9, 13) > 0.97
    masks[0] = False
    assert torch.equal(boxes_of_masks(masks), BitMasks(masks).get_bounding_boxes().tensor)


def test_mean_class_probability(monkeypatch):
    monkeypatch.setattr(instances, "PIXELS_AT_A_TIME", 7)
    logits, ids = torch.randn(5, 8, 9), torch.randint(0, 4, (8, 9))
    ids[ids == 2] = 0
    categories = torch.tensor([0, 3, 1, 4])
    found = mean_class_probability(logits, ids, categories)
    for instance in (1, 3):
        expected = logits.softmax(0)[categories[instance]][ids == instance].mean()
        torch.testing.assert_close(found[instance].float(), expected)
    assert found[0] == found[2] == 0


def test_instances_without_things_have_every_field():
    result = instances_of_panoptic(
        torch.zeros(4, 6, dtype=torch.int64), [{"id": 0, "category_id": 0, "isthing": False}]
    )
    assert result.image_size == (4, 6)
    assert result.pred_masks.shape == (0, 4, 6) and result.pred_masks.dtype == torch.bool
    assert result.pred_boxes.tensor.shape == (0, 4)
    assert result.pred_classes.dtype == torch.int64 and result.scores.dtype == torch.float32
