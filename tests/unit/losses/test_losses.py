from __future__ import annotations

import pytest
import torch
from detectron2.projects.deeplab.loss import DeepLabCE
from torch.nn import functional as F

from panoptic_plugin.losses.center import center_mse
from panoptic_plugin.losses.cross_entropy import cross_entropy
from panoptic_plugin.losses.hard_pixel_mining import hard_pixel_mining
from panoptic_plugin.losses.offset import offset_l1
from panoptic_plugin.losses.semantic import SemanticLoss


@pytest.fixture
def semantic():
    """(logits, targets with ignored pixels, weights)."""
    targets = torch.randint(0, 5, (2, 8, 9))
    targets[:, :3] = 255
    return torch.randn(2, 5, 8, 9, requires_grad=True), targets, torch.randint(1, 4, (2, 8, 9)).float()


@pytest.mark.parametrize("top_k", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_hard_pixel_mining_equals_deeplab_ce(semantic, top_k, weighted):
    logits, targets, weights = semantic
    weights = weights if weighted else None
    expected = DeepLabCE(ignore_label=255, top_k_percent_pixels=top_k)(logits, targets, weights)
    found = hard_pixel_mining(logits, targets, ignore_value=255, top_k=top_k, pixel_weights=weights)
    torch.testing.assert_close(found, expected)


def test_hard_pixel_mining_of_fewer_pixels_than_the_fraction_takes_one():
    logits, targets = torch.randn(1, 3, 1, 2), torch.tensor([[[0, 1]]])
    found = hard_pixel_mining(logits, targets, ignore_value=255, top_k=0.2)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, reduction="none").max())


def test_cross_entropy_equals_torch(semantic):
    logits, targets, _ = semantic
    found = cross_entropy(logits, targets, ignore_value=255)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, ignore_index=255))


def test_cross_entropy_weights_raise_the_loss_of_a_pixel(semantic):
    logits, targets, weights = semantic
    found = cross_entropy(logits, targets, ignore_value=255, pixel_weights=weights)
    pixels = F.cross_entropy(logits, targets, ignore_index=255, reduction="none") * weights
    torch.testing.assert_close(found, pixels[targets != 255].mean())


def test_cross_entropy_of_nothing_is_zero(semantic):
    logits, targets, _ = semantic
    loss = cross_entropy(logits, torch.full_like(targets, 255), ignore_value=255)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_semantic_loss_rejects_an_unknown_name():
    with pytest.raises(ValueError, match="focal"):
        SemanticLoss(loss_type="focal", ignore_value=255, top_k=0.2)


@pytest.mark.parametrize("loss, error, channels", [(center_mse, F.mse_loss, 1), (offset_l1, F.l1_loss, 2)])
def test_instance_losses_are_weighted_means(loss, error, channels):
    predictions, targets = torch.randn(2, channels, 6, 7), torch.randn(2, channels, 6, 7)
    weights = (torch.rand(2, 1, 6, 7) > 0.5).float()
    expected = (error(predictions, targets, reduction="none") * weights).sum() / weights.sum()
    torch.testing.assert_close(loss(predictions, targets, weights), expected)


@pytest.mark.parametrize("loss, channels", [(center_mse, 1), (offset_l1, 2)])
def test_instance_losses_without_instances_are_zero(loss, channels):
    predictions = torch.randn(2, channels, 6, 7, requires_grad=True)
    found = loss(predictions, torch.zeros(2, channels, 6, 7), torch.zeros(2, 1, 6, 7))
    found.backward()
    assert found == 0 and not predictions.grad.any()
