"""Dice loss: a value worked out by hand, and half precision."""

from __future__ import annotations

import pytest
import torch

from panoptic_plugin.losses.dice import dice_losses


def test_value_worked_out_by_hand():
    assert dice_losses(torch.zeros(1, 2), torch.tensor([[1, 0]])).item() == pytest.approx(0.33422, abs=1e-5)


def test_large_masks_in_half_precision_stay_finite():
    logits = torch.full((1, 512, 512), 10.0, dtype=torch.float16, requires_grad=True)
    loss = dice_losses(logits, torch.ones(1, 512, 512, dtype=torch.bool)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-3) and logits.grad.isfinite().all()


def test_empty_masks_and_no_masks():
    loss = dice_losses(torch.full((1, 9), -20.0), torch.zeros(1, 9))
    assert loss.isfinite().all() and dice_losses(torch.zeros(0, 9), torch.zeros(0, 9)).shape == (0,)
