"""One panoptic map from masks of queries (DETR, https://arxiv.org/abs/2005.12872, section 4.4).

Shapes: Q queries, C classes of the head, K kept queries, (h, w) masks at stride 4, (H, W) the size the network saw
without padding, (H', W') the size of the result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

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
    sampler = _Sampler(masks, image_size, padded_size, output_size, crop=padded_masks == "crop")
    alive, is_first_pass = list(range(len(names))), True
    while alive:
        owner = sampler.owner(alive)
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


class _Sampler:
    """Masks at the pixels of the result, without ever enlarging all of them."""

    def __init__(
        self,
        masks: torch.Tensor,
        image_size: tuple[int, int],
        padded_size: tuple[int, int],
        output_size: tuple[int, int],
        *,
        crop: bool,
    ) -> None:
        enlarged = padded_size if crop else image_size
        device = masks.device
        picked = [nearest_sources(*sizes) for sizes in zip(image_size, output_size, strict=True)]
        # Fewer rows or columns: look at those alone. More: repeat them when it is known whose they are.
        shrinks = [len(index) <= size for index, size in zip(picked, image_size, strict=True)]
        rows, columns = (
            torch.as_tensor(index if fewer else np.arange(size), device=device)
            for index, fewer, size in zip(picked, shrinks, image_size, strict=True)
        )
        self.after = [
            (axis, torch.as_tensor(index, device=device)) for axis, index in enumerate(picked) if not shrinks[axis]
        ]
        self.top, self.bottom, self.share = _bilinear(rows, masks.shape[1], enlarged[0])
        left, right, share = _bilinear(columns, masks.shape[2], enlarged[1])
        # (K, h, W'): the columns first and then, mask by mask, the rows, as PyTorch does.
        first, second = (masks.float().gather(2, side.expand(*masks.shape[:2], len(columns))) for side in (left, right))
        self.wide = first.mul_(1 - share).add_(second.mul_(share))
        self.found: torch.Tensor | None = None

    def owner(self, alive: list[int]) -> torch.Tensor:
        """int64 (H', W'): which of the queries has the highest logit; the first one of equal ones."""
        if self.found is None:
            self.found = self._best(alive, None)
        else:  # a query that is gone leaves its pixels to the others, the rest is as it was
            gone = torch.ones(len(self.wide), dtype=torch.bool, device=self.wide.device)
            gone[alive] = False
            pixels = gone[self.found.flatten().long()].nonzero()[:, 0]
            if len(pixels) and alive:
                self.found.view(-1)[pixels] = self._best(alive, pixels)
        owner = self.found
        for axis, index in self.after:
            owner = owner.index_select(axis, index)
        return owner.long()

    def _best(self, alive: list[int], pixels: torch.Tensor | None) -> torch.Tensor:
        """Which of the queries has the highest logit at all pixels, int16 (rows, columns), or at some, (P,)."""
        wide, upper, lower, share = self._places(pixels)
        rest = 1 - share
        best = owner = None
        for query in alive:
            logits = wide[query].index_select(0, upper).mul_(rest)
            logits += wide[query].index_select(0, lower).mul_(share)
            if best is None or owner is None:
                best, owner = logits, torch.full(logits.shape, query, dtype=torch.int16, device=logits.device)
                continue
            better = logits > best
            best = torch.where(better, logits, best)
            owner.masked_fill_(better, query)
        assert owner is not None
        return owner

    def _places(self, pixels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Where logits lie: all queries' values, of which entries along axis 1 each is a mean, and the second's share.

        The entries are whole rows for all pixels, and single values for some.
        """
        if pixels is None:
            return self.wide, self.top, self.bottom, self.share[:, None]
        columns = self.wide.shape[2]
        row, column = torch.div(pixels, columns, rounding_mode="floor"), pixels % columns
        upper, lower = (side[row] * columns + column for side in (self.top, self.bottom))
        return self.wide.flatten(1), upper, lower, self.share[row]


def _bilinear(wanted: torch.Tensor, num_in: int, num_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For some of ``num_out`` positions the two of ``num_in`` they lie between, and the share of the second one.

    As ``torch.nn.functional.interpolate`` with ``align_corners=False``.
    """
    scale = torch.tensor(num_in / num_out, dtype=torch.float32, device=wanted.device)
    source = (scale * (wanted.float() + 0.5) - 0.5).clamp(min=0)
    first = source.long().clamp(max=num_in - 1)
    return first, (first + 1).clamp(max=num_in - 1), source - first


def nearest_sources(num_in: int, num_out: int) -> np.ndarray:
    """Which of ``num_in`` rows each of ``num_out`` rows is taken from, as Pillow's nearest neighbour: int64 (num_out,).

    Pillow adds the step up in double precision, and that decides where the middle of a row falls on an edge.
    """
    step = num_in / num_out
    positions = np.full(num_out, step)
    positions[0] = 0.5 * step
    return np.minimum(np.cumsum(positions).astype(np.int64), num_in - 1)
