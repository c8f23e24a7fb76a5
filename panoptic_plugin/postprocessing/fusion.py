"""Panoptic fusion of EfficientPS (https://arxiv.org/abs/2004.02307): semantic logits and mask logits to one map.

A mask is fused in its box only, against the best logits so far, so there is no map for each mask.

Shapes: C categories, N masks sorted in any way, K masks that stay, H x W pixels of the output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.fusion_contest import Contest
from panoptic_plugin.postprocessing.mask_boxes import Box, box_around, boxes_of_masks
from panoptic_plugin.postprocessing.pixels import count_labels, look_up

OUTSIDE = ("neg_inf", "zero")
VOID = -1


class Fusion(NamedTuple):
    """A panoptic map.

    Attributes:
        ids: int64 (H, W), void -1.
        segments: one dict a segment: id, category_id, isthing, area, score (None for stuff).
        logits: float32 (stuff categories + K, H, W), the fused ones, the highest of which wins a pixel; None where
            they are not asked for.
    """

    ids: torch.Tensor
    segments: list[dict[str, Any]]
    logits: torch.Tensor | None


def select_masks(
    mask_logits: torch.Tensor, scores: torch.Tensor, *, score_threshold: float, overlap_threshold: float
) -> dict[int, Box]:
    """The masks that stay, from the highest score down: their index and the box around them.

    Args:
        mask_logits: float (N, H, W), positive on a mask.
        scores: float (N,); masks are dropped whose score is not above ``score_threshold``.
        score_threshold: see ``scores``.
        overlap_threshold: a mask of which a larger share lies on masks that stay is dropped, as are empty ones.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > score_threshold]
    boxes = boxes_of_masks(mask_logits)
    occupied = torch.zeros(mask_logits.shape[1:], dtype=torch.bool, device=mask_logits.device)
    kept = {}
    for index in order.tolist():
        place = boxes[index].place
        mask = mask_logits[index][place] > 0
        area = int(mask.count_nonzero())
        if area == 0 or int((mask & occupied[place]).count_nonzero()) / area > overlap_threshold:
            continue
        occupied[place] |= mask
        kept[index] = boxes[index]
    return kept


@torch.no_grad()
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
    return_logits: bool = False,
) -> Fusion:
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
        box_margin: what a box grows by on each side, as a share of its height and width.
        center_semantic: subtract each pixel's mean over the categories; the loss leaves it open, the fusion reads it.
        fill_void: give pixels of a thing category that no instance won to the most likely stuff; else they are void.
        return_logits: whether to return the fused logits too, a map for each mask.

    Raises:
        ConfigError: an unknown ``outside``.
    """
    if outside not in OUTSIDE:
        raise ConfigError(f"OUTSIDE of the panoptic fusion is {outside!r}, expected one of {', '.join(OUTSIDE)}")
    kept = select_masks(mask_logits, scores, score_threshold=score_threshold, overlap_threshold=overlap_threshold)
    num_classes, *size = semantic.shape
    things = frozenset(thing_ids)
    stuff_ids = [category for category in range(num_classes) if category not in things]
    boxes = [box.grown(box_margin, (size[0], size[1])) for box in kept.values()]
    whole = outside == "zero" or return_logits
    contest = Contest(
        semantic.float(),
        stuff_ids,
        area=Box(0, size[0], 0, size[1]) if whole else box_around(boxes),
        num_codes=num_classes + len(kept),
        center=center_semantic,
        only_stuff=fill_void,
        keep_maps=return_logits,
    )
    names, confidences = categories[list(kept)].tolist(), scores[list(kept)].tolist()
    for code, (index, category, box) in enumerate(zip(kept, names, boxes, strict=True), start=num_classes):
        contest.enter(code, mask_logits[index], category, box, scale=mask_logit_scale, outside=outside)
    areas = count_labels(contest.codes, num_classes + len(kept)).tolist()
    found = _things(names, confidences, areas[num_classes:], label_divisor, first_code=num_classes)
    found |= _stuff(stuff_ids, areas, stuff_area, label_divisor)
    ids = torch.full((len(areas),), VOID)
    for code, segment in found.items():
        ids[code] = segment["id"]
    logits = None if contest.maps is None else torch.cat(contest.maps)
    return Fusion(look_up(ids.to(contest.codes.device), contest.codes), list(found.values()), logits)


def _things(
    categories: Sequence[int], scores: Sequence[float], areas: Sequence[int], label_divisor: int, *, first_code: int
) -> dict[int, dict[str, Any]]:
    """Segments of the masks that won a pixel, by their code; numbered within each category."""
    segments, numbers = {}, Counter[int]()
    for code, (category, score, area) in enumerate(zip(categories, scores, areas, strict=True), start=first_code):
        if area:
            numbers[category] += 1
            identity = category * label_divisor + numbers[category]
            segments[code] = {"id": identity, "category_id": category, "isthing": True, "area": area, "score": score}
    return segments


def _stuff(
    stuff_ids: Sequence[int], areas: Sequence[int], smallest: int, label_divisor: int
) -> dict[int, dict[str, Any]]:
    """Segments of the stuff that fills enough pixels, by its category."""
    segments: dict[int, dict[str, Any]] = {}
    for category in stuff_ids:
        area = areas[category]
        if area and area >= smallest:
            identity = category * label_divisor
            segments[category] = {
                "id": identity,
                "category_id": category,
                "isthing": False,
                "area": area,
                "score": None,
            }
    return segments
