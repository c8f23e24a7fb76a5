"""Row "semantic grouping": grouping by class and offset against the plain rule, both ours; a ratio below 1 is slower.

A share of the thing pixels are given another thing class in patches, so that there is something to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from measuring import interleaved, peak_mib
from postprocessing import enlarge
from scenes import STRIDE, Scene, _blobs, smooth_scene

from panoptic_plugin.postprocessing.merge import thing_table
from panoptic_plugin.postprocessing.panoptic_deeplab import group_labels
from panoptic_plugin.postprocessing.pixel_scores import PixelScores
from panoptic_plugin.postprocessing.semantic import SemanticLogits, classify
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions

# name: ((height, width), objects, share of things, COCO's classes and window)
CASES = {
    "1024x2048, 30": ((1024, 2048), 30, 0.07, False),
    "1024x2048, 56": ((1024, 2048), 56, 0.16, False),
    "1024x2048, 199": ((1024, 2048), 199, 0.16, False),
    "640x640, 151": ((640, 640), 151, 0.86, True),
}
WRONG_SHARE = 0.06


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case and mode."""
    for name, (size, num_objects, share, coco) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        scene = smooth_scene(size, num_objects, share, coco=coco)
        heatmap, offsets = enlarge(scene.heatmap), enlarge(scene.offsets)
        logits = SemanticLogits(_with_patches(scene), stride=STRIDE, size=size)
        num_classes = logits.num_classes
        things = thing_table(scene.arguments["thing_ids"], num_classes, torch.device("cpu"))
        semantic = classify(logits, things)

        def plain(semantic=semantic, heatmap=heatmap, offsets=offsets, num_classes=num_classes, scene=scene, **more):
            return group_labels(
                semantic.labels,
                heatmap,
                offsets,
                num_classes=num_classes,
                pixels=semantic.pixels,
                **scene.arguments,
                **more,
            )

        for mode in ("semantic_map", "class_strict"):

            def ours(plain=plain, mode=mode, logits=logits, semantic=semantic):
                return plain(grouping=GroupingOptions(mode), scores=PixelScores(logits, semantic))

            yield {
                "row": "semantic grouping",
                "case": f"{name}, {mode}",
                "peak_mib": peak_mib(ours),
                **interleaved(ours, plain, _compare, rounds=rounds),
                "reference": "the plain grouping",
                "equality": "none wanted: pixels moved is what it is for",
                "asked": 0.5 if mode == "semantic_map" and not coco else None,
            }


def _with_patches(scene: Scene) -> torch.Tensor:
    """Logits whose thing classes are shifted by one in blobs."""
    blobs = _blobs(np.random.default_rng(1), (1, *scene.logits.shape[1:]), 16)[0]
    patches = torch.from_numpy(blobs > np.quantile(blobs, 1 - WRONG_SHARE))
    logits, first = scene.logits.clone(), min(scene.arguments["thing_ids"])
    logits[first:] = torch.where(patches, logits[first:].roll(1, 0), logits[first:])
    return logits


def _compare(found: Any, plain: Any) -> dict[str, Any]:
    moved = int((found.panoptic != plain.panoptic).sum())
    return {"equal": True, "moved_pixels": moved, "thing_pixels": len(plain.pixels), "centers": len(plain.centers)}
