"""Row "panoptic fusion": semantic logits and masks at the size of the image to panoptic ids, against a literal loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from literal_fusion import literal_fusion
from measuring import interleaved, peak_mib
from postprocessing import enlarge
from scenes import STRIDE, _blobs, _spread

from panoptic_plugin.postprocessing.fusion import Fusion, fuse

SIZE = (1024, 2048)
# masks: share of the image that they cover
CASES = {10: 0.05, 30: 0.07, 100: 0.16}
NUM_CLASSES, FIRST_THING = 19, 11
# Fused logits so close go either way by the order of additions.
UNDECIDED = 1e-4


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a number of masks."""
    for num_masks, share in CASES.items():
        size = (SIZE[0] // 4, SIZE[1] // 4) if quick else SIZE
        semantic, *masks = _scene(size, num_masks, share)
        arguments = {"thing_ids": list(range(FIRST_THING, NUM_CLASSES)), "label_divisor": 1000}

        def ours(semantic=semantic, masks=masks, arguments=arguments):
            return fuse(semantic, *masks, **arguments)

        def literal(semantic=semantic, masks=masks, arguments=arguments):
            return literal_fusion(semantic, *masks, **arguments)

        yield {
            "row": "panoptic fusion",
            "case": f"{size[0]}x{size[1]}, {num_masks} masks",
            "peak_mib": peak_mib(ours),
            "reference_peak_mib": peak_mib(literal),
            **interleaved(ours, literal, _compare, rounds=rounds, ours_each=3),
            "reference": "a literal loop",
            "equality": "every pixel's id",
            "asked": None,
        }


def _scene(size: tuple[int, int], num_masks: int, share: float) -> tuple[torch.Tensor, ...]:
    """Semantic logits of regions and ellipses, mask logits of the ellipses, categories and scores."""
    random = np.random.default_rng(0)
    height, width = size[0] // STRIDE, size[1] // STRIDE
    grid_yx = np.mgrid[:height, :width].astype(np.float32)
    semantic = _blobs(random, (NUM_CLASSES, height, width), 16)
    semantic[FIRST_THING:] -= 4
    masks = np.empty((num_masks, height, width), np.float32)
    categories = FIRST_THING + np.arange(num_masks) % (NUM_CLASSES - FIRST_THING)
    radius = np.sqrt(height * width * share / num_masks / np.pi)
    for number, center_yx in enumerate(_spread(random, num_masks, height, width)):
        away, stretch = center_yx[:, None, None] - grid_yx, random.uniform(0.7, 1.4)
        inwards = 8 * (1 - np.hypot(away[0] * stretch, away[1] / stretch) / radius)
        masks[number] = inwards.clip(-8, 8)
        semantic[categories[number]] += 12 / (1 + np.exp(-inwards.clip(-30, 30)))
    scores = torch.from_numpy(random.uniform(0.35, 1, num_masks))
    return *(enlarge(torch.from_numpy(part)) for part in (semantic, masks)), torch.from_numpy(categories), scores


def _compare(found: Fusion, expected: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    ids, stack = expected
    different = found.ids != ids
    first, second = stack[:, different].topk(2, dim=0).values
    return {
        "equal": not different.any(),
        "different_pixels": int(different.sum()),
        "undecided_pixels": int((first - second < UNDECIDED).sum()),
        "segments": len(found.segments),
        "pixels": ids.numel(),
    }
