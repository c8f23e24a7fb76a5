"""Mean of the worst pixels: values by hand, of each image and of the batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from panoptic_plugin.losses.hard_pixel_mining import hard_pixel_mining

EIGHT = [[8.0, 7.0, 1.0, 1.0], [2.0, 1.0, 1.0, 0.5]]


def _logits(losses: list[list[float]]) -> torch.Tensor:
    """(N, 2, 1, W), whose cross entropy with class 0 is ``losses`` (N, W)."""
    excess = torch.tensor(losses).expm1().log()
    return torch.stack([torch.zeros_like(excess), excess], dim=1)[:, :, None].requires_grad_()


def _targets(*ignored: tuple[int, int]) -> torch.Tensor:
    targets = torch.zeros(2, 1, 4, dtype=torch.long)
    for image, column in ignored:
        targets[image, 0, column] = 255
    return targets


def _mine(logits: torch.Tensor, targets: torch.Tensor, **options) -> torch.Tensor:
    return hard_pixel_mining(logits, targets, **{"ignore_value": 255, "top_k": 0.25, "round_up": True, **options})


@pytest.mark.parametrize(
    ("scope", "ignored", "expected"),
    [
        ("batch", [], (8 + 7) / 2),
        ("image", [], (8 + 2) / 2),
        ("batch", [(0, 0)], (7 + 2) / 2),
        ("image", [(0, 0)], (7 + 2) / 2),
        ("batch", [(0, 0), (0, 1)], (2 + 1) / 2),
        ("image", [(1, column) for column in range(4)], (8 + 0) / 2),
        ("batch", [(1, column) for column in range(4)], (8 + 7) / 2),
    ],
)
def test_two_of_eight_pixels(scope: str, ignored: list[tuple[int, int]], expected: float):
    assert _mine(_logits(EIGHT), _targets(*ignored), scope=scope).item() == pytest.approx(expected, rel=1e-5)


def test_the_mean_reaches_the_worst_pixels_only():
    logits = _logits(EIGHT)
    _mine(logits, _targets(), scope="image").backward()
    learning = logits.grad[:, 1, 0].ne(0)
    assert learning.tolist() == [[True, False, False, False]] * 2
    # d loss / d logit is half of the probability of the wrong class, 1 - exp(-loss)
    torch.testing.assert_close(logits.grad[:, 1, 0, 0], (1 - torch.tensor([-8.0, -2.0]).exp()) / 2)


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_ratio_1_is_the_mean_of_all_pixels_with_0_for_ignored_ones(scope: str):
    found = _mine(_logits(EIGHT), _targets((0, 0)), scope=scope, top_k=1.0)
    assert found.item() == pytest.approx((7 + 1 + 1 + 2 + 1 + 1 + 0.5) / 8, rel=1e-5)


@pytest.mark.parametrize(
    ("width", "top_k", "round_up", "count"),
    [(9, 0.25, True, 3), (9, 0.25, False, 2), (8, 0.25, True, 2), (30, 0.1, True, 3), (3, 0.25, True, 1),
     (3, 0.25, False, 1)],
)  # fmt: skip
def test_how_many_pixels_are_worst(width: int, top_k: float, round_up: bool, count: int):
    losses = torch.arange(width, 0, -1.0)
    found = _mine(_logits([losses.tolist()]), torch.zeros(1, 1, width, dtype=torch.long), top_k=top_k,
                  round_up=round_up)  # fmt: skip
    assert found.item() == pytest.approx(losses[:count].mean().item(), rel=1e-5)


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("top_k", [0.25, 1.0])
def test_nothing_but_ignored_pixels_gives_0_and_finite_gradients(scope: str, top_k: float):
    logits = _logits(EIGHT)
    loss = _mine(logits, torch.full((2, 1, 4), 255), scope=scope, top_k=top_k)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_against_a_loop_over_images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, 9, generator=generator)
    targets = torch.randint(0, 5, (3, 7, 9), generator=generator)
    targets[torch.rand(3, 7, 9, generator=generator) < 0.2] = 255
    pixels = F.cross_entropy(logits.double(), targets, ignore_index=255, reduction="none")
    by_hand = sum(image.flatten().sort(descending=True).values[:16].mean() for image in pixels) / 3
    assert _mine(logits, targets, scope="image").item() == pytest.approx(by_hand.item(), rel=1e-6)
