"""Matrix and point NMS: numbers worked out by hand, and a loop over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.matrix_nms import mask_ious, matrix_nms, suppress_points


def _ious(*pairs: tuple[int, int, float], number: int) -> torch.Tensor:
    ious = torch.eye(number)
    for first, second, value in pairs:
        ious[first, second] = ious[second, first] = value
    return ious


def test_scores_worked_out_by_hand():
    ious = _ious((0, 1, 0.5), (0, 2, 0.2), (1, 2, 0.6), number=3)
    scores = matrix_nms(ious, torch.zeros(3, dtype=torch.long), torch.tensor([0.9, 0.8, 0.7]))
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.48522, 0.7 * 0.80252]), atol=1e-5, rtol=0)


def test_other_categories_do_not_suppress():
    scores = torch.tensor([0.9, 0.8])
    assert torch.equal(matrix_nms(_ious((0, 1, 0.9), number=2), torch.tensor([0, 1]), scores), scores)


def test_linear_kernel():
    ious = _ious((0, 1, 0.5), number=2)
    scores = matrix_nms(ious, torch.zeros(2, dtype=torch.long), torch.tensor([0.9, 0.8]), kernel="linear")
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.4]))


def test_no_masks():
    empty = torch.zeros(0)
    assert matrix_nms(mask_ious(torch.zeros(0, 4, 4, dtype=torch.bool)), empty.long(), empty).shape == (0,)


def test_unknown_kernel():
    with pytest.raises(ConfigError, match="gaussian"):
        matrix_nms(torch.eye(1), torch.zeros(1, dtype=torch.long), torch.ones(1), kernel="cubic")


def _loop(masks: torch.Tensor, categories: torch.Tensor, scores: torch.Tensor, sigma: float) -> list[float]:
    def iou(first: int, second: int) -> float:
        union = (masks[first] | masks[second]).sum().item()
        return (masks[first] & masks[second]).sum().item() / union if union else 0.0

    def higher(index: int) -> list[int]:
        return [i for i in range(len(scores)) if scores[i] > scores[index] and categories[i] == categories[index]]

    lowered = []
    for j in range(len(scores)):
        factors = [1.0]
        for i in higher(j):
            covered = max([iou(k, i) for k in higher(i)], default=0.0)
            factors.append(math.exp(-sigma * iou(i, j) ** 2) / math.exp(-sigma * covered**2))
        lowered.append(scores[j].item() * min(factors))
    return lowered


def test_equals_a_loop_over_pairs_in_any_order():
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(14, 8, 8, generator=generator) > 0.4
    masks[5] = False
    categories = torch.randint(3, (14,), generator=generator)
    scores = torch.rand(14, generator=generator)
    lowered = matrix_nms(mask_ious(masks), categories, scores)
    torch.testing.assert_close(lowered, torch.tensor(_loop(masks, categories, scores, 2.0)), atol=1e-6, rtol=0)
    order = torch.randperm(14, generator=generator)
    assert torch.equal(matrix_nms(mask_ious(masks[order]), categories[order], scores[order]), lowered[order])


def test_points_look_left_and_up_only():
    scores = torch.tensor([[[1.0, 2.0, 1.0], [3.0, 1.0, 1.0], [1.0, 1.0, 4.0]]])
    expected = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 4.0]]])
    assert torch.equal(suppress_points(scores), expected)
    assert torch.equal(suppress_points(scores.expand(2, 3, 3, 3)[1, 1]), expected[0])
