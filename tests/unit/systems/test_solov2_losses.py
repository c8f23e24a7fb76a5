"""Losses of the SOLOv2 head."""

from __future__ import annotations

import pytest
import torch

from panoptic_plugin.systems.efficientps import solov2_losses
from panoptic_plugin.systems.efficientps.solov2_head import SOLOv2Outputs
from panoptic_plugin.systems.efficientps.solov2_losses import SOLOv2Losses, mask_logits, mask_loss
from panoptic_plugin.systems.efficientps.solov2_targets import SOLOv2Targets, solov2_targets

CLASSES, CELLS, KERNEL = 3, 4 * 4 + 2 * 2, 6


def _outputs(num_images: int = 2, dtype: torch.dtype = torch.float32) -> SOLOv2Outputs:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    return SOLOv2Outputs(random(num_images, CELLS, CLASSES), random(num_images, CELLS, KERNEL),
                         random(num_images, KERNEL, 8, 8))  # fmt: skip


def _targets(*boxes: tuple[int, int, int, int]) -> SOLOv2Targets:
    index = torch.zeros(32, 32, dtype=torch.int16)
    for number, (top, bottom, left, right) in enumerate(boxes, start=1):
        index[top:bottom, left:right] = number
    classes = torch.arange(len(boxes)) % CLASSES
    return solov2_targets(index, classes, num_classes=CLASSES, num_grids=(4, 2), scale_ranges=((1, 20), (10, 64)))


def test_category_loss_is_the_focal_loss_in_double_precision_over_positive_cells_plus_one():
    outputs, targets = _outputs(), [_targets((0, 16, 0, 16)), _targets((8, 30, 4, 28), (0, 4, 0, 4))]
    loss = SOLOv2Losses()(outputs, targets)["loss_category"]
    total, positive = 0.0, 0
    for logits, target in zip(outputs.category_logits.double(), targets, strict=True):
        for row, category in zip(logits, target.categories.tolist(), strict=True):
            positive += category < CLASSES
            for number, logit in enumerate(row):
                p = 1 / (1 + torch.exp(-logit))
                if number == category:
                    total += 0.25 * (1 - p) ** 2 * -torch.log(p)
                else:
                    total += 0.75 * p**2 * -torch.log(1 - p)
    assert positive > 0
    assert loss.item() == pytest.approx((total / (positive + 1)).item(), rel=1e-6)


def test_mask_loss_is_the_mean_dice_loss_of_all_cells_of_the_batch():
    outputs, targets = _outputs(), [_targets((0, 16, 0, 16)), _targets((8, 30, 4, 28), (0, 4, 0, 4))]
    expected = []
    for kernels, features, target in zip(outputs.kernels, outputs.mask_features, targets, strict=True):
        for cell, number in zip(target.cells, target.objects, strict=True):
            p = torch.einsum("e,ehw->hw", kernels[cell], features).double().sigmoid()
            q = target.masks[number].double()
            expected.append(1 - 2 * (p * q).sum() / ((p * p).sum() + 0.001 + (q * q).sum() + 0.001))
    losses = SOLOv2Losses()(outputs, targets)
    assert len(expected) > len(targets)
    assert losses["loss_mask"].item() == pytest.approx(3.0 * torch.stack(expected).mean().item(), rel=1e-6)


def test_many_cells_in_parts_give_the_loss_and_gradients_of_all_at_once(monkeypatch):
    results = []
    for at_once in (1000, 3):
        monkeypatch.setattr(solov2_losses, "_CELLS_AT_ONCE", at_once)
        outputs = _outputs()
        loss = mask_loss(outputs, [_targets((0, 16, 0, 16)), _targets((8, 30, 4, 28), (0, 4, 0, 4))])
        loss.backward()
        results.append((loss.detach(), outputs.kernels.grad, outputs.mask_features.grad))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts)


def test_batch_without_objects_has_finite_losses_and_gradients():
    outputs, targets = _outputs(), [_targets(), _targets()]
    losses = SOLOv2Losses()(outputs, targets)
    sum(losses.values()).backward()
    assert losses["loss_mask"].item() == 0
    assert losses["loss_category"].item() > 0
    for tensor in (outputs.category_logits, outputs.kernels, outputs.mask_features):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_image_without_objects_beside_one_with_objects():
    with_object = _targets((0, 16, 0, 16))
    outputs = _outputs()
    alone = SOLOv2Outputs(*(tensor[:1] for tensor in vars(outputs).values()))
    assert mask_loss(outputs, [with_object, _targets()]).item() == pytest.approx(mask_loss(alone, [with_object]).item())


def test_losses_are_finite_and_float32_in_half_precision():
    outputs = _outputs(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = SOLOv2Losses()(outputs, [_targets((0, 16, 0, 16)), _targets()])
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert outputs.kernels.grad.isfinite().all()


def test_weights_scale_the_losses():
    outputs, targets = _outputs(), [_targets((0, 16, 0, 16)), _targets()]
    plain = SOLOv2Losses(focal_weight=1, dice_weight=1)(outputs, targets)
    heavy = SOLOv2Losses(focal_weight=2, dice_weight=5)(outputs, targets)
    assert heavy["loss_category"].item() == pytest.approx(2 * plain["loss_category"].item())
    assert heavy["loss_mask"].item() == pytest.approx(5 * plain["loss_mask"].item())


def test_mask_logits_are_a_convolution_with_the_kernel():
    outputs = _outputs()
    kernels, features = outputs.kernels[0, :5], outputs.mask_features[0]
    expected = torch.nn.functional.conv2d(features[None], kernels[:, :, None, None])[0]
    torch.testing.assert_close(mask_logits(kernels, features), expected)
