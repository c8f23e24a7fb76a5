"""One panoptic map from masks of queries (DETR, https://arxiv.org/abs/2005.12872, section 4.4).

Shapes: Q queries, C classes of the head, K kept queries, (h, w) masks at stride 4, (H, W) the size the network saw
without padding, (H', W') the size of the result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from panoptic_plugin.postprocessing.query_owners import find_owners

STUFF_MERGES = ("official", "union")
PADDED_MASKS = ("official", "crop")


def keep_queries(logits: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The queries that are sure of an object.

    Args:
        logits: float (Q, C + 1), the last one is "no object".
        threshold: what the probability of the most likely class must exceed.

    Returns:
        int64 (K,) queries in ascending order, int64 (K,) classes, float32 (K,) probabilities.
    """
    probability, label = logits.float().softmax(dim=-1).max(dim=-1)
    kept = ((label != logits.shape[-1] - 1) & (probability > threshold)).nonzero()[:, 0]
    return kept, label[kept], probability[kept]


def merge_query_masks(
    masks: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    *,
    thing_labels: Collection[int],
    image_size: tuple[int, int],
    padded_size: tuple[int, int],
    output_size: tuple[int, int],
    min_area: int = 4,
    stuff_merge: str = "official",
    padded_masks: str = "official",
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Each pixel goes to the mask with the highest logit; small segments are dropped until there is none.

    Args:
        masks: float (K, h, w), logits of the padded image's masks.
        labels: int64 (K,).
        scores: float (K,).
        thing_labels: labels that are things.
        image_size: (H, W).
        padded_size: that of the batch, at least ``image_size``.
        output_size: (H', W').
        min_area: segments of at most so many pixels are dropped.
        stuff_merge: ``"union"`` makes masks of one stuff class one segment, as the paper says. ``"official"`` does what
            the official code does: it merges them at first, then finds those that were merged away to be empty, drops
            them and gives their pixels to whatever mask is next best.
        padded_masks: ``"crop"`` enlarges masks to the padded size and cuts the padding off. ``"official"`` enlarges
            masks with their padding to ``image_size``, which distorts images that were padded.

    Returns:
        int32 (H', W') ids, 0 where no query was kept and else 1 to S, and S dicts with id, category_id (the label),
        isthing, area in pixels, score and query (the place in ``masks``; of a union the highest score's).

    Raises:
        ValueError: an unknown mode.
    """
    _check(stuff_merge, STUFF_MERGES, "stuff_merge")
    _check(padded_masks, PADDED_MASKS, "padded_masks")
    things = set(thing_labels)
    names, values = labels.tolist(), scores.tolist()
    is_thing = [label in things for label in names]
    class_of = _first_of_class(names, is_thing)
    owners = find_owners(masks, image_size, padded_size, output_size, crop=padded_masks == "crop")
    alive, is_first_pass = list(range(len(names))), True
    while alive:
        owner = owners.among(alive)
        # The query that stands for each: the first one alive of its stuff class, or itself.
        stands = _representatives(class_of if is_first_pass or stuff_merge == "union" else range(len(names)), alive)
        merged = torch.tensor(stands, device=owner.device)[owner]
        area = torch.bincount(merged.flatten(), minlength=len(names)).tolist()
        pixels = area if stuff_merge == "official" else [area[query] for query in stands]
        large = [query for query in alive if pixels[query] > min_area]
        if large == alive:
            best = [max((values[query] for query in alive if stands[query] == one), default=0.0) for one in stands]
            return _numbered(merged, area, names, best, is_thing)
        alive, is_first_pass = large, False
    return torch.zeros(output_size, dtype=torch.int32, device=masks.device), []


def _check(value: str, known: Collection[str], name: str) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def _first_of_class(labels: list[int], is_thing: list[bool]) -> list[int]:
    """For each query the first one of its class where that is stuff, else itself."""
    first: dict[int, int] = {}
    pairs = enumerate(zip(labels, is_thing, strict=True))
    return [number if thing else first.setdefault(label, number) for number, (label, thing) in pairs]


def _representatives(class_of: Sequence[int], alive: list[int]) -> list[int]:
    """For each query the first one that is alive of those of its class, for one that is not alive itself."""
    first: dict[int, int] = {}
    result = list(range(len(class_of)))
    for query in alive:
        result[query] = first.setdefault(class_of[query], query)
    return result


def _numbered(
    owner: torch.Tensor, area: list[int], labels: list[int], scores: list[float], is_thing: list[bool]
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    table = torch.zeros(len(area), dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    for query, pixels in enumerate(area):
        if pixels:
            table[query] = len(segments) + 1
            segments.append(
                {
                    "id": len(segments) + 1,
                    "category_id": labels[query],
                    "isthing": is_thing[query],
                    "area": pixels,
                    "score": scores[query],
                    "query": query,
                }
            )
    return table.to(owner.device)[owner], segments
