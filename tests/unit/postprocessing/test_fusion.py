"""Panoptic fusion: its values, its rules and its options."""

from __future__ import annotations

import pytest
import torch

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.evaluation import pq
from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.fusion import Fusion, fuse, select_masks
from panoptic_plugin.postprocessing.fusion_contest import fuse_logits

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


def _none(size: tuple[int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros(0, *size), torch.zeros(0, dtype=torch.long), torch.zeros(0)


def _scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    semantic = _semantic()
    semantic[2, 5:20, 5:25] = 9.0
    semantic[3, 22:38, 30:50] = 9.0
    masks = torch.stack([_mask(5, 20, 5, 25), _mask(22, 38, 30, 50)])
    return semantic, masks, torch.tensor([2, 3]), torch.tensor([0.9, 0.8])


def _row(*, stuff: list[float], thing: list[float], mask: list[float], **options) -> Fusion:
    """One row of pixels with stuff 0, thing 1 and one mask of it, whose logits are taken as they are."""
    semantic = torch.tensor([stuff, thing])[:, None]
    options = {"thing_ids": [1], "label_divisor": 1000, "stuff_area": 0, "center_semantic": False, **options}
    return fuse(semantic, torch.tensor([[mask]]), torch.tensor([1]), torch.tensor([0.9]), **options)


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
    masks = torch.full((2, 1, 20), -1.0)
    masks[0, 0, :10] = 1.0
    masks[1, 0, left : left + 10] = 1.0
    boxes = select_masks(masks, torch.tensor([0.9, 0.8]), score_threshold=0.3, overlap_threshold=0.5)
    assert list(boxes) == kept
    assert tuple(boxes[kept[-1]]) == ((0, 1, 0, 10) if len(kept) == 1 else (0, 1, left, left + 10))


def test_a_mask_is_weighed_against_all_better_ones_together():
    masks = torch.full((3, 1, 20), -1.0)
    masks[0, 0, :8], masks[1, 0, 8:16], masks[2, 0, 5:11] = 1.0, 1.0, 1.0  # half on the first, half on the second
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert list(select_masks(masks, scores, score_threshold=0.3, overlap_threshold=0.5)) == [0, 1]


def test_empty_and_unsure_masks_go_and_the_best_comes_first():
    masks = 2.0 * torch.eye(4)[:, None] - 1
    masks[2] = 0.0  # a logit of 0 is not on the mask
    scores = torch.tensor([0.3, 0.5, 0.9, 0.8])
    assert list(select_masks(masks, scores, score_threshold=0.3, overlap_threshold=0.5)) == [3, 1]


def test_things_over_stuff():
    panoptic, segments, fused = fuse(*_scene(), **OPTIONS)
    assert fused is None
    assert panoptic.dtype == torch.int64
    assert (panoptic[5:20, 5:25] == 2001).all() and (panoptic[22:38, 30:50] == 3001).all()
    assert (panoptic == 0).sum() == 40 * 60 - 15 * 20 - 16 * 20
    assert segments == [
        {"id": 2001, "category_id": 2, "isthing": True, "area": 300, "score": pytest.approx(0.9)},
        {"id": 3001, "category_id": 3, "isthing": True, "area": 320, "score": pytest.approx(0.8)},
        {"id": 0, "category_id": 0, "isthing": False, "area": 1780, "score": None},
    ]


def test_copies_of_other_categories_are_removed():
    semantic, masks, categories, scores = _scene()
    twice = torch.cat([masks, masks[:1]]), torch.cat([categories, torch.tensor([3])]), torch.tensor([0.9, 0.8, 0.7])
    assert torch.equal(fuse(semantic, *twice, **OPTIONS)[0], fuse(semantic, masks, categories, scores, **OPTIONS)[0])


def test_where_masks_are_equal_the_one_with_the_higher_score_wins():
    masks = torch.stack([_mask(5, 20, 20, 40), _mask(5, 20, 5, 25)])
    semantic = _semantic(2)
    ids = fuse(semantic, masks, torch.tensor([2, 2]), torch.tensor([0.6, 0.7]), **OPTIONS).ids
    assert (ids[5:20, 5:25] == 2001).all() and (ids[5:20, 25:40] == 2002).all()


@pytest.mark.parametrize(("area", "identity"), [(2048, 1000), (2047, -1)])
def test_stuff_of_fewer_than_2048_pixels_becomes_void(area: int, identity: int):
    semantic = torch.zeros(4, 50, 100)
    semantic[0] = 4.0
    semantic[1].view(-1)[:area] = 5.0
    ids, segments, _ = fuse(semantic, *_none((50, 100)), thing_ids=[2, 3], label_divisor=1000)
    assert (ids.view(-1)[:area] == identity).all() and (ids.view(-1)[area:] == 0).all()
    expected = [(0, 5000 - area)] + ([(1000, 2048)] if identity == 1000 else [])
    assert [(segment["id"], segment["area"]) for segment in segments] == expected


def test_area_of_stuff_is_counted_without_what_masks_won():
    semantic, masks, categories, scores = _scene()
    semantic[0] = 20.0  # the likeliest everywhere, and lower than what was fused in the masks
    semantic[2:] += 20.0
    masks = masks * 10
    for smallest, present in ((1780, True), (1781, False)):
        ids = fuse(semantic, masks, categories, scores, **{**OPTIONS, "stuff_area": smallest}).ids
        assert bool((ids == 0).any()) == present


@pytest.mark.parametrize(("fill_void", "identity"), [(False, -1), (True, 1000)])
def test_pixels_of_things_without_instance(fill_void: bool, identity: int):
    semantic = _semantic(2)
    semantic[1] = 1.0
    assert (fuse(semantic, *_none(), **OPTIONS, fill_void=fill_void)[0] == identity).all()


def test_only_things_or_only_stuff():
    things = fuse(*_scene(), **{**OPTIONS, "thing_ids": [0, 1, 2, 3]}, fill_void=True)
    assert [segment["id"] for segment in things.segments] == [2001, 3001]
    assert (things.ids == -1).sum() == 1780
    stuff = fuse(_scene()[0], *_none(), **{**OPTIONS, "thing_ids": []})
    assert [segment["id"] for segment in stuff.segments] == [0, 2000, 3000]


def test_a_mask_that_wins_no_pixel_takes_no_number():
    semantic = _semantic(2)
    semantic[0] = torch.where(torch.arange(60) < 30, 40.0, -4.0)
    masks = torch.stack([_mask(5, 20, 5, 25), _mask(5, 20, 32, 50)])
    ids, segments, _ = fuse(semantic, masks, torch.tensor([2, 2]), torch.tensor([0.9, 0.8]), **OPTIONS)
    assert (ids[5:20, 32:50] == 2001).all()
    assert [(segment["id"], segment["score"]) for segment in segments] == [(2001, pytest.approx(0.8)), (0, None)]


def test_more_codes_than_a_byte_holds():
    semantic = torch.zeros(200, 10, 70)
    masks = torch.full((70, 10, 70), -6.0)
    masks[torch.arange(70), 5, torch.arange(70)] = 6.0
    options = {**OPTIONS, "thing_ids": list(range(100, 200))}
    ids = fuse(semantic, masks, torch.arange(100, 170), torch.linspace(0.9, 0.5, 70), **options).ids
    assert ids[5].tolist() == [1000 * category + 1 for category in range(100, 170)]


# Fused logits as they come out


def test_logits_are_returned_where_they_are_asked_for():
    stuff, thing, mask = [1.0, 1.0, 1.0, 1.0], [3.0, -10.0, 3.0, 0.0], [2.0, 4.0, 16.0, -5.0]
    logits = _row(stuff=stuff, thing=thing, mask=mask, return_logits=True).logits
    assert logits.shape == (2, 1, 4) and logits.dtype == torch.float32
    assert logits[0, 0].tolist() == stuff
    assert logits[1, 0].tolist() == [
        pytest.approx(9.16686, abs=1e-4), pytest.approx(-5.89236, abs=1e-4), pytest.approx(37.09891, abs=1e-4),
        float("-inf"),
    ]  # fmt: skip


def test_logits_outside_of_the_box_in_zero_mode_are_fused_with_0():
    fused = _row(stuff=[1.0, 1.0], thing=[3.0, 9.0], mask=[2.0, -8.0], return_logits=True, outside="zero").logits
    assert fused[1, 0].tolist() == [pytest.approx(9.16686, abs=1e-4), pytest.approx(-4.00268, abs=1e-4)]


def test_logits_are_centered_by_the_mean_of_all_categories():
    fused = _row(stuff=[1.0], thing=[5.0], mask=[2.0], return_logits=True, center_semantic=True).logits
    assert fused[0, 0, 0] == -2.0
    assert fused[1, 0, 0].item() == pytest.approx(2 * 0.8807971 * 4, abs=1e-5)  # mask 2, semantic 5 - 3


def test_logits_of_a_mask_are_not_cut_by_better_masks():
    semantic = _semantic(2)
    masks = torch.stack([_mask(5, 20, 5, 25), _mask(5, 20, 20, 40)])
    fused = fuse(semantic, masks, torch.tensor([2, 2]), torch.tensor([0.9, 0.8]), **OPTIONS, return_logits=True).logits
    assert torch.equal(fused[2, 5:20, 20:25], fused[3, 5:20, 20:25])


def test_asking_for_logits_changes_nothing_else():
    plain, more = fuse(*_scene(), **OPTIONS), fuse(*_scene(), **OPTIONS, return_logits=True)
    assert torch.equal(plain.ids, more.ids) and plain.segments == more.segments
    assert more.logits.shape == (4, *SIZE)
    assert fuse(_semantic(), *_none(), **OPTIONS, return_logits=True).logits.shape == (2, *SIZE)


# Options


@pytest.mark.parametrize(("scale", "identity"), [(1.0, 0), (4.0, 1001)])
def test_scale_of_the_mask_logits(scale: float, identity: int):
    # (sigmoid(1) + 0.5) * 1 = 1.23 and (sigmoid(4) + 0.5) * 4 = 5.93 against 3.5
    ids = _row(stuff=[3.5], thing=[0.0], mask=[1.0], mask_logit_scale=scale).ids
    assert ids.item() == identity


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0.0, [0, 0, 0, 1001, 1001, 1001, 1001, 0, 0]),
        (0.24, [0, 0, 0, 1001, 1001, 1001, 1001, 0, 0]),
        (0.25, [0, 0, 1001, 1001, 1001, 1001, 1001, 1001, 0]),
        (0.5, [0, 1001, 1001, 1001, 1001, 1001, 1001, 1001, 1001]),
        (5.0, [1001] * 9),
    ],
)
def test_margin_lets_a_mask_win_next_to_its_box(margin: float, expected: list[int]):
    # Outside (sigmoid(-1) + sigmoid(9)) * 8 = 10.1 wins against 9.5, where it may.
    mask = [-1.0, -1.0, -1.0, 5.0, 5.0, 5.0, 5.0, -1.0, -1.0]
    assert _row(stuff=[9.5] * 9, thing=[9.0] * 9, mask=mask, box_margin=margin).ids[0].tolist() == expected


def _quality(found: Fusion, expected: Fusion) -> float:
    """PQ of all segments, with another fusion as the truth; ids from 1, since 0 is void to the evaluation."""

    def segments(fusion: Fusion) -> list[dict]:
        return [{"id": one["id"] + 1, "category_id": one["category_id"], "iscrowd": 0, "area": one["area"]}
                for one in fusion.segments]  # fmt: skip

    counts = pq.count_image(
        (expected.ids + 1).numpy(), segments(expected), (found.ids + 1).numpy(), segments(found)
    )  # fmt: skip
    average = pq.average(counts, [0, 2, 3])
    return average[0]


def test_level_of_semantic_logits_changes_nothing():
    semantic, *masks = _scene()
    expected = fuse(semantic, *masks, **OPTIONS)
    for level in (-20.0, 20.0, torch.linspace(-64, 64, 60).round()):
        for outside in ("neg_inf", "zero"):
            shifted = fuse(semantic + level, *masks, **OPTIONS, outside=outside)
            assert torch.equal(shifted.ids, expected.ids) and shifted.segments == expected.segments


@pytest.mark.parametrize(
    ("outside", "center", "quality"), [("zero", False, 1 / 3), ("neg_inf", False, 1.0), ("neg_inf", True, 1.0)]
)
def test_zero_outside_and_no_centering_fail_with_lowered_logits(outside: str, center: bool, quality: float):
    semantic, *masks = _scene()
    masks[0] = masks[0].clamp(max=25) * 5
    unshifted = fuse(semantic, *masks, **OPTIONS, outside=outside, center_semantic=center)
    assert _quality(unshifted, fuse(*_scene(), **OPTIONS)) == 1.0
    shifted = fuse(semantic - 20, *masks, **OPTIONS, outside=outside, center_semantic=center)
    # Far from all masks fused logits are about -3 then, and stuff is at -16: one mask takes what was stuff.
    assert _quality(shifted, unshifted) == quality
    assert bool((shifted.ids == 0).any()) == (quality == 1.0)


def test_unknown_outside():
    with pytest.raises(ConfigError, match="neg_inf"):
        fuse(*_scene(), **OPTIONS, outside="none")


def test_very_low_mask_logits_win_nothing():
    semantic, masks, categories, scores = _scene()
    masks = masks.masked_fill(masks < 0, -300.0)
    panoptic, _, fused = fuse(semantic, masks, categories, scores, **OPTIONS, return_logits=True)
    assert not fused.isnan().any() and (panoptic == 0).sum() == 1780


def test_no_gradient_and_half_precision():
    semantic, masks, categories, scores = _scene()
    expected = fuse(semantic, masks, categories, scores, **OPTIONS).ids
    found = fuse(semantic.requires_grad_(), masks.half().requires_grad_(), categories, scores, **OPTIONS).ids
    assert torch.equal(found, expected) and not found.requires_grad


def test_the_way_of_other_devices_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    expected = fuse(*_scene(), **OPTIONS, return_logits=True)
    monkeypatch.setattr(device, "is_cpu", lambda tensor: False)
    found = fuse(*_scene(), **OPTIONS, return_logits=True)
    assert torch.equal(found.ids, expected.ids) and found.segments == expected.segments
    assert torch.equal(found.logits, expected.logits)
