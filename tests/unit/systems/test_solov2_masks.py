"""From cells to masks, against the procedure written out one mask at a time."""

from __future__ import annotations

import math

import pytest
import torch

from panoptic_plugin.systems.efficientps import solov2_masks
from panoptic_plugin.systems.efficientps.solov2_masks import SOLOv2Selection

GRIDS, STRIDES, CLASSES, KERNEL = (6, 4), (8, 16), 3, 5


def _head_outputs(seed: int, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = sum(grid**2 for grid in GRIDS)
    logits = torch.randn(cells, CLASSES, generator=generator) * spread - 2
    return logits, torch.randn(cells, KERNEL, generator=generator), torch.randn(KERNEL, 12, 16, generator=generator)


def _literal(logits: torch.Tensor, kernels: torch.Tensor, features: torch.Tensor, nms_pre: int, top: int) -> list:
    """(class, score, cell) of what stays, from the highest score down."""
    found, first = [], 0
    for grid, stride in zip(GRIDS, STRIDES, strict=True):
        probability = logits[first : first + grid**2].sigmoid().view(grid, grid, CLASSES)
        for y in range(grid):
            for x in range(grid):
                for category in range(CLASSES):
                    here = probability[y, x, category]
                    neighbours = [(y, x - 1), (y - 1, x), (y - 1, x - 1)]
                    higher = any(b >= 0 and a >= 0 and probability[a, b, category] > here for a, b in neighbours)
                    if higher or here <= 0.1:
                        continue
                    cell = first + y * grid + x
                    mask = torch.einsum("e,ehw->hw", kernels[cell], features).sigmoid()
                    inside = mask > 0.5
                    if inside.sum() > stride:
                        found.append((category, (here * mask[inside].mean()).item(), cell, inside))
        first += grid**2
    found = sorted(found, key=lambda one: -one[1])[:nms_pre]
    iou = [[((a[3] & b[3]).sum() / (a[3] | b[3]).sum()).item() if a[0] == b[0] else 0.0 for b in found] for a in found]
    kept = []
    for j, (category, score, cell, _) in enumerate(found):
        decay = 1.0
        for i in range(j):
            if found[i][0] == category:
                covered = max([iou[k][i] for k in range(i)], default=0.0)
                decay = min(decay, math.exp(-2.0 * (iou[i][j] ** 2 - covered**2)))
        if score * decay >= 0.05:
            kept.append((category, score * decay, cell))
    return sorted(kept, key=lambda one: -one[1])[:top]


def _selection(**arguments) -> SOLOv2Selection:
    return SOLOv2Selection(num_grids=GRIDS, strides=STRIDES, **arguments)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at_once", [1, 7, 128])
def test_against_the_literal_procedure(seed, at_once, monkeypatch):
    monkeypatch.setattr(solov2_masks, "_CELLS_AT_ONCE", at_once)
    outputs = _head_outputs(seed)
    found = _selection(nms_pre=20, max_masks=10)(*outputs)
    expected = _literal(*outputs, nms_pre=20, top=10)
    assert len(expected) > 0
    assert found.classes.tolist() == [category for category, _, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected], rel=1e-5)
    masks = torch.stack([torch.einsum("e,ehw->hw", outputs[1][cell], outputs[2]) for _, _, cell in expected])
    torch.testing.assert_close(found.logits, masks)


def test_nothing_likely_gives_no_masks_of_the_right_shape():
    logits, kernels, features = _head_outputs(0)
    found = _selection()(logits - 100, kernels, features)
    assert found.logits.shape == (0, 12, 16)
    assert found.classes.shape == found.scores.shape == (0,)


def test_masks_no_larger_than_the_stride_of_their_level_are_dropped():
    logits = torch.full((sum(grid**2 for grid in GRIDS), 1), -10.0)
    logits[0] = 4.0
    features = torch.full((1, 12, 16), -5.0)
    features[0, 0, :8] = 5.0
    kernels = torch.ones(len(logits), 1)
    assert len(_selection()(logits, kernels, features).scores) == 0
    features[0, 0, 8] = 5.0
    assert len(_selection()(logits, kernels, features).scores) == 1


def test_score_is_class_probability_times_mean_probability_inside_the_mask():
    logits = torch.full((sum(grid**2 for grid in GRIDS), 1), -10.0)
    logits[3] = 2.0
    features = torch.full((1, 12, 16), -5.0)
    features[0, :4] = 1.0
    features[0, 4:6] = 3.0
    found = _selection()(logits, torch.ones(len(logits), 1), features)
    inside = (64 * torch.tensor(1.0).sigmoid() + 32 * torch.tensor(3.0).sigmoid()) / 96
    assert found.scores.item() == pytest.approx((torch.tensor(2.0).sigmoid() * inside).item())


def test_half_precision_gives_float32_masks():
    outputs = [tensor.bfloat16() for tensor in _head_outputs(1)]
    with torch.autocast("cpu", torch.bfloat16):
        found = _selection()(*outputs)
    assert found.logits.dtype == found.scores.dtype == torch.float32
    expected = _selection()(*(tensor.float() for tensor in outputs))
    assert torch.equal(found.scores, expected.scores)
