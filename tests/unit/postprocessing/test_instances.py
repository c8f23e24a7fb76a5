from __future__ import annotations

import torch
from detectron2.structures import BitMasks

from panoptic_plugin.postprocessing.instances import instances_of_panoptic, mean_probability
from panoptic_plugin.postprocessing.semantic import SemanticLogits, classify


def test_masks_and_boxes_equal_those_of_detectron2():
    panoptic = torch.randint(-1, 6, (9, 13)) * 7
    panoptic[panoptic < 0] = -1
    segments = [{"id": k * 7, "category_id": k, "isthing": k % 2 == 1, "score": k / 10} for k in range(7)]
    found = instances_of_panoptic(panoptic, segments)
    assert found.pred_classes.tolist() == [1, 3, 5]
    masks = torch.stack([panoptic == id_ for id_ in (7, 21, 35)])
    assert torch.equal(found.pred_masks, masks)
    assert torch.equal(found.pred_boxes.tensor, BitMasks(masks).get_bounding_boxes().tensor)


def test_an_instance_without_pixels_has_an_empty_box():
    segment = {"id": 1001, "category_id": 1, "isthing": True, "score": 0.5}
    found = instances_of_panoptic(torch.zeros(4, 6, dtype=torch.int64), [segment])
    assert not found.pred_masks.any()
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 0, 0]]


def test_mean_probability():
    logits = torch.randn(5, 8, 9)
    source = SemanticLogits(logits)
    semantic = classify(source, torch.tensor([False, True, True, True, False]))
    instances = torch.randint(0, 4, semantic.pixels.shape)
    instances[instances == 2] = 0
    categories = torch.tensor([3, 1, 2, 3])
    found = mean_probability(source, semantic, instances, categories)
    for instance in (0, 1, 3):
        probability = logits.softmax(0)[categories[instance]].view(-1)[semantic.pixels]
        torch.testing.assert_close(found[instance].float(), probability[instances == instance].mean())
    assert found[2] == 0


def test_instances_without_things_have_every_field():
    result = instances_of_panoptic(
        torch.zeros(4, 6, dtype=torch.int64), [{"id": 0, "category_id": 0, "isthing": False}]
    )
    assert result.image_size == (4, 6)
    assert result.pred_masks.shape == (0, 4, 6) and result.pred_masks.dtype == torch.bool
    assert result.pred_boxes.tensor.shape == (0, 4)
    assert result.pred_classes.dtype == torch.int64 and result.scores.dtype == torch.float32
