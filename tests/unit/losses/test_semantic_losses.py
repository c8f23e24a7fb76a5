"""OHEM and RMI against loops and matrices written out, and what all semantic losses must do at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from panoptic_plugin.losses.ohem import ohem_cross_entropy
from panoptic_plugin.losses.rmi import binary_cross_entropy, region_mutual_information, rmi_loss
from panoptic_plugin.losses.semantic import SEMANTIC_LOSSES, SemanticLoss


@pytest.fixture
def batch():
    """(logits, targets with ignored pixels, weights) of 4 classes, class 3 absent."""
    targets = torch.randint(0, 3, (2, 4, 5)).repeat_interleave(5, 1).repeat_interleave(6, 2)
    targets[:, :3] = 255
    return torch.randn(2, 4, 20, 30, requires_grad=True), targets, torch.randint(1, 4, (2, 20, 30)).float()


def ohem_loop(logits, targets, threshold, min_kept, weights):
    probabilities = logits.detach().softmax(1)
    pixels = [
        (float(probabilities[n, targets[n, y, x], y, x]), float(weights[n, y, x]))
        for n, y, x in torch.nonzero(targets != 255).tolist()
    ]
    pixels.sort()
    kept = [pixel for rank, pixel in enumerate(pixels) if rank < min_kept or pixel[0] < threshold]
    return sum(-math.log(p) * w for p, w in kept) / max(1, len(kept))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("min_kept", [0, 1, 300, 10**6])
def test_ohem_equals_a_loop(batch, threshold, min_kept):
    logits, targets, weights = batch
    found = ohem_cross_entropy(
        logits, targets, ignore_value=255, threshold=threshold, min_kept=min_kept, pixel_weights=weights
    )
    assert float(found.detach()) == pytest.approx(ohem_loop(logits, targets, threshold, min_kept, weights), rel=1e-5)


def test_weights_scale_but_do_not_choose(batch):
    logits, targets, _ = batch
    keys = {"ignore_value": 255, "threshold": 0.3, "min_kept": 10}
    plain = ohem_cross_entropy(logits, targets, **keys)
    doubled = ohem_cross_entropy(logits, targets, pixel_weights=torch.full((2, 20, 30), 2.0), **keys)
    torch.testing.assert_close(doubled, 2 * plain)
    easy = torch.where(logits.detach().argmax(1) == targets, 1e6, 1.0)  # heavy pixels that no one finds hard
    gradient = torch.autograd.grad(ohem_cross_entropy(logits, targets, pixel_weights=easy, **keys), logits)[0]
    expected = torch.autograd.grad(ohem_cross_entropy(logits, targets, **keys), logits)[0]
    assert torch.equal(gradient.abs().sum(1) > 0, expected.abs().sum(1) > 0)


def test_ohem_keeps_pixels_that_are_all_equally_easy():
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 5.0
    found = ohem_cross_entropy(
        logits, torch.zeros(1, 4, 4, dtype=torch.long), ignore_value=255, threshold=0.7, min_kept=3
    )
    assert float(found) == pytest.approx(math.log(1 + math.exp(-5)), rel=1e-4)


def test_binary_cross_entropy_equals_a_loop(batch):
    logits, targets, weights = batch
    total = 0.0
    for n, y, x in torch.nonzero(targets != 255).tolist():
        one_hot = torch.eye(4)[targets[n, y, x]]
        total += float(
            F.binary_cross_entropy_with_logits(logits.detach()[n, :, y, x], one_hot, reduction="sum")
        ) * float(weights[n, y, x])
    found = binary_cross_entropy(logits, targets, ignore_value=255, pixel_weights=weights)
    assert float(found.detach()) == pytest.approx(total / int((targets != 255).sum()), rel=1e-5)


def rmi_loop(logits, targets):
    """The formula with an inverse and a determinant, image by image and class by class."""
    per_image = []
    for scores, labels in zip(logits.detach().double().numpy(), targets.numpy(), strict=True):
        known = labels != 255
        total = 0.0
        for c in range(len(scores)):
            maps = ((labels == c).astype(float), known / (1 + np.exp(-scores[c])) + 1e-6)
            label, score = (_region_vectors(_pooled(values)) for values in maps)
            covariance = score @ score.T + 5e-4 * np.eye(9)
            rest = label @ label.T - label @ score.T @ np.linalg.inv(covariance) @ score @ label.T
            total += 0.5 * np.linalg.slogdet(rest + 5e-4 * np.eye(9))[1] / 9
        if known.any():
            per_image.append(total)
    return sum(per_image) / max(1, len(per_image))


def _pooled(values):
    padded = np.pad(values, 2)
    rows, columns = (side // 4 for side in padded.shape)
    return padded[: rows * 4, : columns * 4].reshape(rows, 4, columns, 4).mean(axis=(1, 3))


def _region_vectors(values):
    height, width = values.shape
    vectors = np.stack([values[y : height - 2 + y, x : width - 2 + x].ravel() for y in range(3) for x in range(3)])
    return vectors - vectors.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("all_ignored", [False, True])
def test_rmi_equals_the_formula(batch, all_ignored):
    logits, targets, _ = batch
    if all_ignored:
        targets[1] = 255
    found = region_mutual_information(logits, targets, ignore_value=255)
    assert float(found.detach()) == pytest.approx(rmi_loop(logits, targets), rel=1e-5)


def test_rmi_is_lower_for_better_scores(batch):
    _, targets, _ = batch
    right = F.one_hot(targets.clamp(max=3), 4).permute(0, 3, 1, 2) * 8.0 - 4.0
    losses = [
        float(region_mutual_information(logits, targets, ignore_value=255))
        for logits in (right, right * 0.5, right * 0, torch.randn_like(right))
    ]
    assert losses[0] < losses[1] < losses[2] and losses[0] < losses[3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rmi_is_computed_in_full_precision_under_autocast(batch, dtype):
    logits, targets, _ = batch
    half = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rmi_loss(half, targets, ignore_value=255)
    expected = rmi_loss(half.float(), targets, ignore_value=255)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    found.backward()
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("extreme", [0.0, 80.0, -80.0, 1e4])
def test_rmi_of_constant_and_saturated_scores_is_finite(batch, extreme):
    _, targets, _ = batch
    logits = torch.full((2, 4, 20, 30), extreme, requires_grad=True)
    loss = rmi_loss(logits, targets, ignore_value=255)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_rmi_of_images_too_small_for_a_region_is_the_pixels_alone():
    logits, targets = torch.randn(1, 3, 3, 3, requires_grad=True), torch.randint(0, 3, (1, 3, 3))
    assert float(region_mutual_information(logits.detach(), targets, ignore_value=255)) == 0
    rmi_loss(logits, targets, ignore_value=255).backward()


def every_loss(loss_type, **keys):
    return SemanticLoss(loss_type=loss_type, ignore_value=255, top_k=0.2, ohem_min_kept=50, **keys)


@pytest.mark.parametrize("loss_type", SEMANTIC_LOSSES)
@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_batch_of_ignored_pixels_gives_zero_and_finite_gradients(loss_type, auxiliary):
    logits = torch.randn(2, 4, 20, 30, requires_grad=True)
    criterion = every_loss(loss_type)
    loss = (criterion.auxiliary if auxiliary else criterion)(logits, torch.full((2, 20, 30), 255), None)
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


@pytest.mark.parametrize("loss_type", SEMANTIC_LOSSES)
def test_absent_classes_and_weights_give_finite_gradients(batch, loss_type):
    logits, targets, weights = batch
    criterion = every_loss(loss_type)
    (criterion(logits, targets, weights) + criterion.auxiliary(logits, targets, weights)).backward()
    assert logits.grad.isfinite().all() and logits.grad.any()
    assert not logits.grad[:, :, :3].any()  # ignored rows


def test_the_auxiliary_loss_neither_mines_nor_compares_regions(batch):
    logits, targets, weights = batch
    for loss_type in ("ohem", "hard_pixel_mining", "cross_entropy"):
        expected = every_loss("cross_entropy")(logits, targets, weights)
        assert torch.equal(every_loss(loss_type).auxiliary(logits, targets, weights), expected)
    expected = binary_cross_entropy(logits, targets, ignore_value=255, pixel_weights=weights)
    assert torch.equal(every_loss("rmi").auxiliary(logits, targets, weights), expected)


@pytest.mark.parametrize("loss_type", SEMANTIC_LOSSES)
def test_a_loss_declares_its_activation(loss_type):
    assert every_loss(loss_type).activation == ("sigmoid" if loss_type == "rmi" else "softmax")
