"""The panoptic fusion of EfficientPS as it is described, one full-size map after the other: slow, and plain to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def literal_fusion(
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (H, W), and the stack of stuff logits and fused logits that decided, (stuff + masks that stay, H, W)."""
    logits = semantic - semantic.mean(dim=0) if center_semantic else semantic
    stuff_ids = [category for category in range(len(semantic)) if category not in thing_ids]
    occupied = torch.zeros(semantic.shape[1:], dtype=torch.bool)
    stack, kept = [logits[category] for category in stuff_ids], []
    for index in sorted(range(len(scores)), key=lambda index: -float(scores[index])):
        mask = mask_logits[index].sigmoid() > 0.5
        if scores[index] <= score_threshold or not mask.any():
            continue
        if (mask & occupied).sum() / mask.sum() > overlap_threshold:
            continue
        occupied |= mask
        region = _region(mask, box_margin)
        a = mask_logit_scale * mask_logits[index]
        b = torch.where(region, logits[categories[index]], 0.0)
        fused = (a.sigmoid() + b.sigmoid()) * (a + b)
        stack.append(fused if outside == "zero" else torch.where(region, fused, float("-inf")))
        kept.append(int(categories[index]))
    stacked = torch.stack(stack)
    winner, ids = stacked.argmax(dim=0), torch.full(occupied.shape, -1)
    numbers = dict.fromkeys(kept, 0)
    for position, category in enumerate(kept, start=len(stuff_ids)):
        won = winner == position
        if won.any():
            numbers[category] += 1
            ids[won] = category * label_divisor + numbers[category]
    filler = torch.tensor(stuff_ids)[semantic[stuff_ids].argmax(dim=0)] if fill_void else semantic.argmax(dim=0)
    is_free = ids == -1
    for category in stuff_ids:
        place = is_free & (filler == category)
        if place.sum() >= stuff_area:
            ids[place] = category * label_divisor
    return ids, stacked


def _region(mask: torch.Tensor, margin: float) -> torch.Tensor:
    """The box around a mask, grown by a share of its size on each side; bool (H, W)."""
    region = torch.ones_like(mask)
    for axis in (0, 1):
        where = mask.any(dim=1 - axis).nonzero()
        first, last = int(where.min()), int(where.max())
        grown = margin * (last - first + 1)
        positions = torch.arange(mask.shape[axis])
        inside = (positions >= first - grown) & (positions <= last + grown)
        region &= inside[:, None] if axis == 0 else inside[None, :]
    return region
