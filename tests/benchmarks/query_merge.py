"""Row "merge of query masks": logits of kept queries to segments, against the rule of the official code, word by word.

Every round of it enlarges all masks, takes a softmax over them at each pixel, turns the index into colours for Pillow
to resize, and counts each mask's pixels by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import interleaved, peak_mib
from PIL import Image
from torch.nn import functional as F

from panoptic_plugin.postprocessing.query_masks import merge_query_masks
from panoptic_plugin.structures import ids_to_rgb, rgb_to_ids

# name: (queries, size that the network saw, size of the result); with duplicates of stuff, as a DETR has them
CASES = {
    "10 masks, 800x1199 to 427x640": (10, (800, 1199), (427, 640)),
    "60 masks, 800x1199 to 427x640": (60, (800, 1199), (427, 640)),
    "30 masks, 800x1333 to 1080x1800": (30, (800, 1333), (1080, 1800)),
}
THINGS = frozenset(range(8))
MIN_AREA = 4
Segments = list[tuple[int, int]]


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case."""
    for name, (count, size, out) in CASES.items():
        if quick:
            size, out = (tuple(side // 4 for side in one) for one in (size, out))
        masks, labels = scene(count, size)
        ours = partial(merged, masks, labels, size, out)
        yield {
            "row": "merge of query masks",
            "case": name,
            "reference": "official rule",
            "equality": "every pixel's id, every area",
            "asked": None,
            "peak_mib": peak_mib(ours),
            **interleaved(ours, partial(literal, masks, labels, size, out), compare, rounds=rounds, ours_each=3),
        }


def scene(count: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth logits (K, h, w) at stride 4, every third nearly a copy of the one before; classes 0 to 15."""
    random = torch.Generator().manual_seed(count)
    coarse = torch.randn(1, count, 9, 12, generator=random) * 5
    masks = F.interpolate(coarse, size=tuple(-(-side // 4) for side in size), mode="bicubic", align_corners=False)[0]
    labels = torch.randint(0, 16, (count,), generator=random)
    for copy in range(2, count, 3):
        masks[copy] = masks[copy - 1] - 0.2 + 0.4 * torch.rand(masks.shape[1:], generator=random)
        labels[copy] = labels[copy - 1]
    return masks, labels


def merged(
    masks: torch.Tensor, labels: torch.Tensor, size: tuple[int, int], out: tuple[int, int]
) -> tuple[np.ndarray, Segments]:
    ids, segments = merge_query_masks(
        masks,
        labels,
        torch.ones(len(labels)),
        thing_labels=THINGS,
        image_size=size,
        padded_size=size,
        output_size=out,
        min_area=MIN_AREA,
    )
    return ids.numpy(), [(one["category_id"], one["area"]) for one in segments]


def literal(
    masks: torch.Tensor, labels: torch.Tensor, size: tuple[int, int], out: tuple[int, int]
) -> tuple[np.ndarray, Segments]:
    """Ids from 1 and (class, area) of the segments."""
    kept = torch.arange(len(labels))
    owner, areas = index_map(masks, labels, size, out, merge_stuff=True)
    while len(kept) and min(areas) <= MIN_AREA:
        kept = kept[torch.tensor(areas) > MIN_AREA]
        if len(kept):
            owner, areas = index_map(masks[kept], labels[kept], size, out, merge_stuff=False)
    return owner + 1, list(zip(labels[kept].tolist(), areas, strict=True))


def index_map(
    masks: torch.Tensor, labels: torch.Tensor, size: tuple[int, int], out: tuple[int, int], *, merge_stuff: bool
) -> tuple[np.ndarray, list[int]]:
    """int (H', W') which mask each pixel belongs to, and how many pixels each has."""
    enlarged = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
    owner = enlarged.flatten(1).transpose(0, 1).softmax(dim=-1).argmax(dim=-1).view(size)
    for label in set(labels.tolist()) - THINGS if merge_stuff else ():
        first, *others = (labels == label).nonzero()[:, 0].tolist()
        for other in others:
            owner[owner == other] = first
    picture = Image.fromarray(ids_to_rgb(owner.numpy().astype(np.int32)))
    resized = rgb_to_ids(np.asarray(picture.resize(out[::-1], Image.Resampling.NEAREST)))
    return resized, [int((resized == number).sum()) for number in range(len(labels))]


def compare(found: tuple[np.ndarray, Segments], expected: tuple[np.ndarray, Segments]) -> dict[str, Any]:
    """How many pixels differ, and whether the segments do."""
    different = int((found[0] != expected[0]).sum())
    return {
        "equal": different == 0 and found[1] == expected[1],
        "different_pixels": different,
        "segments": len(found[1]),
    }
