"""Panoptic fusion: its values, its rules and its options."""

from __future__ import annotations

import pytest
import torch

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.fusion import fuse, fuse_logits, select_masks

OPTIONS = {"thing_ids": [2, 3], "label_divisor": 1000, "stuff_area": 0}
SIZE = 40, 60


def _semantic(category: int = 0) -> torch.Tensor:
    logits = torch.zeros(4, *SIZE)
    logits[category] = 4.0
    return logits


def _mask(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    logits = torch.full(SIZE, -6.0)
    logits[top:bottom, left:right] = 6.0
    return logits


def _none() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros(0, *SIZE), torch.zeros(0, dtype=torch.long), torch.zeros(0)


def _scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    semantic = _semantic()
    semantic[2, 5:20, 5:25] = 9.0
    semantic[3, 22:38, 30:50] = 9.0
    masks = torch.stack([_mask(5, 20, 5, 25), _mask(22, 38, 30, 50)])
    return semantic, masks, torch.tensor([2, 3]), torch.tensor([0.9, 0.8])


@pytest.mark.parametrize(
    ("mask", "semantic", "expected"),
    [
        (2, 3, 9.16686),
        (4, -10, -5.89236),
        (-8, -3, -0.52537),
        (-8, -8, -0.01073),
        (0, -10, -5.00045),
        (16, 3, 37.09891),
        (0, 0, 0),
    ],
)
def test_fused_values(mask: float, semantic: float, expected: float):
    fused = fuse_logits(torch.tensor(float(mask)), torch.tensor(float(semantic)))
    assert fused.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("left", "kept"), [(5, [0, 1]), (4, [0])])
def test_half_of_a_mask_may_be_hidden(left: int, kept: list[int]):
    masks = torch.zeros(2, 1, 20, dtype=torch.bool)
    masks[0, 0, :10] = True
    masks[1, 0, left : left + 10] = True
    scores = torch.tensor([0.9, 0.8])
    assert select_masks(masks, scores, score_threshold=0.3, overlap_threshold=0.5) == kept


def test_empty_and_unsure_masks_go_and_the_best_comes_first():
    masks = torch.eye(4, dtype=torch.bool)[:, None]
    masks[2] = False
    scores = torch.tensor([0.3, 0.5, 0.9, 0.8])
    assert select_masks(masks, scores, score_threshold=0.3, overlap_threshold=0.5) == [3, 1]


def test_things_over_stuff():
    panoptic, segments, fused = fuse(*_scene(), **OPTIONS)
    assert fused.shape == (4, *SIZE)
    assert (panoptic[5:20, 5:25] == 2001).all() and (panoptic[22:38, 30:50] == 3001).all()
    assert (panoptic == 0).sum() == 40 * 60 - 15 * 20 - 16 * 20
    assert [(s["id"], s["isthing"], s["area"]) for s in segments] == [
        (2001, True, 300),
        (3001, True, 320),
        (0, False, 1780),
    ]


def test_copies_of_other_categories_are_removed():
    semantic, masks, categories, scores = _scene()
    twice = torch.cat([masks, masks[:1]]), torch.cat([categories, torch.tensor([3])]), torch.tensor([0.9, 0.8, 0.7])
    assert torch.equal(fuse(semantic, *twice, **OPTIONS)[0], fuse(semantic, masks, categories, scores, **OPTIONS)[0])


@pytest.mark.parametrize(("stuff_area", "identity"), [(2400, 0), (2401, -1)])
def test_small_stuff_becomes_void(stuff_area: int, identity: int):
    panoptic, segments, _ = fuse(_semantic(), *_none(), **{**OPTIONS, "stuff_area": stuff_area})
    assert (panoptic == identity).all() and len(segments) == (identity == 0)


@pytest.mark.parametrize(("fill_void", "identity"), [(False, -1), (True, 1000)])
def test_pixels_of_things_without_instance(fill_void: bool, identity: int):
    semantic = _semantic(2)
    semantic[1] = 1.0
    assert (fuse(semantic, *_none(), **OPTIONS, fill_void=fill_void)[0] == identity).all()


def test_level_of_semantic_logits_changes_nothing():
    semantic, *masks = _scene()
    panoptic, segments, _ = fuse(semantic, *masks, **OPTIONS)
    shifted, shifted_segments, _ = fuse(semantic - 20, *masks, **OPTIONS)
    assert torch.equal(shifted, panoptic) and shifted_segments == segments


def test_zero_outside_and_no_centering_fail_with_lowered_logits():
    semantic, *masks = _scene()
    shifted, _, _ = fuse(semantic - 20, *masks, **OPTIONS, outside="zero", center_semantic=False)
    assert (shifted == 0).sum() < 1780  # stuff at -16 loses to fused logits near 0 far away from any mask


def test_unknown_outside():
    with pytest.raises(ConfigError, match="neg_inf"):
        fuse(*_scene(), **OPTIONS, outside="none")


def test_very_low_mask_logits_win_nothing():
    semantic, masks, categories, scores = _scene()
    masks = masks.masked_fill(masks < 0, -300.0)
    panoptic, _, fused = fuse(semantic, masks, categories, scores, **OPTIONS)
    assert not fused.isnan().any() and (panoptic == 0).sum() == 1780
