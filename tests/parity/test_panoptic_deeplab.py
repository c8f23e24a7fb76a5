"""Ours and Detectron2's Panoptic-DeepLab, in one process, with the same weights and the same input."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks
from panoptic_deeplab_models import THINGS, build_pair, make_it_see, smooth_image, tiny_config, training_sample

VARIANTS = {
    "regular": {"dsconv": False, "crop": (32, 64)},
    "separable": {"dsconv": True, "crop": (32, 64)},
    "separable, no crop": {"dsconv": True, "crop": None},
    "separable R-50, output stride 16": {"dsconv": True, "crop": (32, 64), "depth": 50},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request):
    """(ours, Detectron2's, image) with the same weights, which see several things in the image."""
    torch.manual_seed(1)
    ours, theirs = build_pair(tiny_config(**request.param))
    image = smooth_image(64, 128, seed=2)
    make_it_see(ours, image)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs, image


def test_checkpoints_load_both_ways(pair):
    ours, theirs, _ = pair
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 64), (64, 128)], ids=str)
def test_logits_heatmap_and_offsets_are_equal(pair, size):
    ours, theirs, _ = pair
    image = smooth_image(*size, seed=3)
    tensor = ours.images([{"image": image}]).tensor
    logits, heatmap, offsets = ours.predict(tensor)
    features = theirs.backbone(tensor)
    expected_logits, _ = theirs.sem_seg_head(features)
    expected_heatmap, expected_offsets, _, _ = theirs.ins_embed_head(features)
    bit_equal = ours.sem_seg_head.decoder["res5"]["project_conv"].convs[4].window is None
    for found, expected in ((logits, expected_logits), (heatmap, expected_heatmap), (offsets, expected_offsets)):
        if bit_equal:
            assert torch.equal(found, expected)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_results_are_equal(pair):
    ours, theirs, image = pair
    sample = {"image": image, "height": image.shape[1], "width": image.shape[2]}
    found, expected = ours([sample])[0], theirs([sample])[0]
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=1e-5)
    panoptic, expected_panoptic = found["panoptic_seg"][0], expected["panoptic_seg"][0]
    assert panoptic.dtype == torch.int64
    assert torch.equal(panoptic, expected_panoptic)
    num_things = len(found["instances"])
    assert num_things >= 2, "the scene should show several things"
    for field in ("pred_classes", "pred_masks"):
        assert torch.equal(found["instances"].get(field), expected["instances"].get(field))
    boxes = BitMasks(expected["instances"].pred_masks).get_bounding_boxes().tensor
    assert torch.equal(found["instances"].pred_boxes.tensor, boxes)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 128), (50, 100)], ids=["own size", "resized"])
def test_results_are_equal_without_logits(pair, size):
    """Labels made from the logits of the common stride are those of the enlarged logits, and so is all that follows."""
    ours, _, image = pair
    sample = {"image": image[:, :60, :117], "height": size[0], "width": size[1]}
    if size == (64, 128):
        sample = {"image": image}
    expected = ours([sample])[0]
    ours.return_logits = False
    found = ours([sample])[0]
    ours.return_logits = True
    assert torch.equal(found["sem_seg"].long(), expected["sem_seg"].argmax(0))
    assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert torch.equal(found["instances"].pred_masks, expected["instances"].pred_masks)
    torch.testing.assert_close(found["instances"].scores, expected["instances"].scores, atol=1e-6, rtol=0)


@torch.no_grad()
def test_segments_describe_the_panoptic_map(pair):
    ours, _, image = pair
    result = ours([{"image": image}])[0]
    panoptic, segments = result["panoptic_seg"][0], result["segments_info"]
    ids, areas = panoptic[panoptic >= 0].unique(return_counts=True)
    assert [(segment["id"], segment["area"]) for segment in segments] == list(
        zip(ids.tolist(), areas.tolist(), strict=True)
    )
    for segment in segments:
        assert segment["category_id"] == segment["id"] // 1000
        assert segment["isthing"] == (segment["category_id"] in THINGS)
        assert (segment["score"] is None) == (segment["center_yx"] is None) == (not segment["isthing"])


@pytest.mark.parametrize("dsconv", [False, True])
def test_losses_and_gradients_are_equal(dsconv):
    ours, theirs = build_pair(tiny_config(dsconv=dsconv))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    batch = [training_sample(64, 128, seed=seed) for seed in (0, 1)]
    found, expected = ours.train()(batch), theirs.train()(batch)
    assert found.keys() == expected.keys() == {"loss_sem_seg", "loss_center", "loss_offset"}
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name], atol=1e-5, rtol=1e-5)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max().clamp(min=1e-6)
        assert (parameter.grad - other.grad).abs().max() / scale < 1e-3, name
