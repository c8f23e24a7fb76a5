"""Panoptic fusion of EfficientPS (https://arxiv.org/abs/2004.02307): semantic logits and mask logits to one map.

Shapes: C categories, N masks sorted in any way, H x W pixels of the output, at which all is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from panoptic_plugin.errors import ConfigError

OUTSIDE = ("neg_inf", "zero")
VOID = -1


def fuse_logits(mask_logits: torch.Tensor, semantic_logits: torch.Tensor) -> torch.Tensor:
    """(sigmoid(a) + sigmoid(b)) * (a + b): high where both agree; float, of the common shape."""
    return (mask_logits.sigmoid() + semantic_logits.sigmoid()) * (mask_logits + semantic_logits)


def select_masks(
    masks: torch.Tensor, scores: torch.Tensor, *, score_threshold: float, overlap_threshold: float
) -> list[int]:
    """Indices of the masks that stay, from the highest score down.

    Args:
        masks: bool (N, H, W).
        scores: float (N,); those not above ``score_threshold`` are dropped.
        score_threshold: see ``scores``.
        overlap_threshold: a mask of which a larger share lies on masks that stay is dropped, as are empty ones.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > score_threshold]
    areas = masks.flatten(1).sum(dim=1).tolist()
    occupied = torch.zeros(masks.shape[1:], dtype=torch.bool, device=masks.device)
    kept = []
    for index in order.tolist():
        if areas[index] == 0 or (masks[index] & occupied).sum().item() / areas[index] > overlap_threshold:
            continue
        occupied |= masks[index]
        kept.append(index)
    return kept


def tight_regions(masks: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """The boxes around masks, bool (N, H, W).

    Args:
        masks: bool (N, H, W), none empty.
        margin: what a box grows by on each side, as a share of its height and width.
    """
    rows = _between_first_and_last(masks.any(dim=2), margin)
    columns = _between_first_and_last(masks.any(dim=1), margin)
    return rows[:, :, None] & columns[:, None, :]


def _between_first_and_last(present: torch.Tensor, margin: float) -> torch.Tensor:
    # (N, L) -> (N, L)
    positions = torch.arange(present.shape[1], device=present.device)
    first = present.int().argmax(dim=1, keepdim=True)
    last = present.shape[1] - 1 - present.flip(1).int().argmax(dim=1, keepdim=True)
    grown = margin * (last - first + 1)
    return (positions >= first - grown) & (positions <= last + grown)


def fuse(
    semantic: torch.Tensor,
    mask_logits: torch.Tensor,
    categories: torch.Tensor,
    scores: torch.Tensor,
    *,
    thing_ids: Sequence[int],
    label_divisor: int,
    score_threshold: float = 0.3,
    overlap_threshold: float = 0.5,
    stuff_area: int = 2048,
    mask_logit_scale: float = 1.0,
    outside: str = "neg_inf",
    box_margin: float = 0.0,
    center_semantic: bool = True,
    fill_void: bool = False,
) -> tuple[torch.Tensor, list[dict[str, Any]], torch.Tensor]:
    """One panoptic map of semantic logits and scored masks.

    Args:
        semantic: float (C, H, W), logits.
        mask_logits: float (N, H, W); a mask is where they are positive.
        categories: int64 (N,), indices into the C categories.
        scores: float (N,).
        thing_ids: the categories that have instances; the others are stuff.
        label_divisor: ids are ``category * label_divisor + instance``, instances counted from 1, stuff 0.
        score_threshold: see :func:`select_masks`.
        overlap_threshold: see :func:`select_masks`.
        stuff_area: categories of stuff that fill fewer pixels become void.
        mask_logit_scale: factor of the mask logits in the fusion; 4 in the released code, none in the paper.
        outside: fused logits outside of a mask's box: "neg_inf", lost there; "zero", fused with a semantic logit of 0.
        box_margin: see :func:`tight_regions`.
        center_semantic: subtract each pixel's mean over the categories; the loss leaves it open, the fusion reads it.
        fill_void: give pixels of a thing category that no instance won to the most likely stuff; else they are void.

    Returns:
        Int64 (H, W) ids, void -1; segments with id, category_id, isthing, area, score (None for stuff); the fused
        logits, float (stuff categories + masks that stayed, H, W).

    Raises:
        ConfigError: an unknown ``outside``.
    """
    if outside not in OUTSIDE:
        raise ConfigError(f"OUTSIDE of the panoptic fusion is {outside!r}, expected one of {', '.join(OUTSIDE)}")
    logits = semantic.float() - semantic.float().mean(dim=0) if center_semantic else semantic.float()
    stuff_ids = [category for category in range(len(semantic)) if category not in set(thing_ids)]
    masks = mask_logits > 0
    kept = select_masks(masks, scores, score_threshold=score_threshold, overlap_threshold=overlap_threshold)
    regions = tight_regions(masks[kept], box_margin)
    fused = _fuse_in_boxes(mask_logit_scale * mask_logits[kept].float(), logits[categories[kept]], regions, outside)
    fused = torch.cat([logits[stuff_ids], fused])
    winners = fused.argmax(dim=0) - len(stuff_ids)
    most_likely = (fused[: len(stuff_ids)] if fill_void else logits).argmax(dim=0)
    names = torch.tensor(stuff_ids if fill_void else range(len(semantic)), device=semantic.device)
    filler = names[most_likely].masked_fill(winners >= 0, VOID)
    panoptic = torch.full_like(winners, VOID)
    segments = _write_things(panoptic, winners, categories[kept].tolist(), scores[kept].tolist(), label_divisor)
    segments += _write_stuff(panoptic, filler, stuff_ids, stuff_area, label_divisor)
    return panoptic, segments, fused


def _fuse_in_boxes(
    mask_logits: torch.Tensor, semantic_logits: torch.Tensor, regions: torch.Tensor, outside: str
) -> torch.Tensor:
    if outside == "zero":
        return fuse_logits(mask_logits, semantic_logits.masked_fill(~regions, 0.0))
    # Filled after, not before: where both sigmoids underflow, 0 * -inf would be NaN, which wins every argmax.
    return fuse_logits(mask_logits, semantic_logits).masked_fill(~regions, float("-inf"))


def _write_things(
    panoptic: torch.Tensor, winners: torch.Tensor, categories: list[int], scores: list[float], label_divisor: int
) -> list[dict[str, Any]]:
    # All areas in one count, all ids in one look-up: the time does not grow with the number of masks.
    if not categories:
        return []
    won = winners >= 0
    areas = torch.bincount(winners[won], minlength=len(categories)).tolist()
    segments, ids, counts = [], [], dict.fromkeys(categories, 0)
    for category, score, area in zip(categories, scores, areas, strict=True):
        counts[category] += area > 0
        ids.append(category * label_divisor + counts[category])
        if area:
            segments.append({"id": ids[-1], "category_id": category, "isthing": True, "area": area, "score": score})
    panoptic[won] = torch.tensor(ids, device=panoptic.device)[winners[won]]
    return segments


def _write_stuff(
    panoptic: torch.Tensor, filler: torch.Tensor, stuff_ids: list[int], stuff_area: int, label_divisor: int
) -> list[dict[str, Any]]:
    areas = torch.bincount(filler.flatten() + 1, minlength=max(stuff_ids, default=0) + 2).tolist()
    segments = []
    for category in stuff_ids:
        area = areas[category + 1]
        if area and area >= stuff_area:
            identity = category * label_divisor
            panoptic[filler == category] = identity
            segments.append({"id": identity, "category_id": category, "isthing": False, "area": area, "score": None})
    return segments
