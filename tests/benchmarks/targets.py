"""Row "training targets": from the ids of a label to the seven targets of Detectron2's Panoptic-DeepLab generator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from drawing import segmentation
from measuring import interleaved

from panoptic_plugin.data.targets import PanopticDeepLabTargets

# name: (size of the scene, objects, share of things, what of the scene is left, ratio to reach). Ids are below 2**15
# as Cityscapes has them, or 24-bit colours as COCO has them.
WHOLE = np.s_[:, :]
CASES = {
    "1024x2048, 30": ((1024, 2048), 30, 0.07, WHOLE, 10),
    "1024x2048, 57": ((1024, 2048), 57, 0.16, WHOLE, 10),
    "512x1024 of 1024x2048, 30": ((1024, 2048), 30, 0.07, np.s_[256:768, 512:1536], 6),
    "640x640, 15": ((640, 640), 15, 0.5, WHOLE, 6),
}
OPTIONS = {"ignore_label": 255, "sigma": 8, "small_instance_area": 4096, "small_instance_weight": 3}
THINGS = range(11, 19)


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case."""
    for name, (size, num_objects, share, part, asked) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
            part = tuple(slice(one.start and one.start // 4, one.stop and one.stop // 4) for one in part)
        ids, segments = label(size, num_objects, share, colours=size[0] == size[1])
        arguments = (np.ascontiguousarray(ids[part]), segments)
        ours = partial(PanopticDeepLabTargets(thing_ids=THINGS, **OPTIONS), *arguments)
        theirs = partial(PanopticDeepLabTargetGenerator(thing_ids=THINGS, **OPTIONS), *arguments)
        yield {
            "row": "training targets",
            "case": name,
            "segments": len(segments),
            "reference": "Detectron2",
            "equality": "every bit of all seven",
            "asked": asked,
            **interleaved(ours, theirs, compare, rounds=rounds),
        }


def label(
    size: tuple[int, int], num_objects: int, share: float, *, colours: bool
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """int32 (H, W) ids and their segments; with ``colours`` ids of up to 24 bits."""
    ids, segments = segmentation(size, num_objects, share)
    pixels = ids.numpy().astype(np.int32)
    pixels[pixels < 0] = 0
    new_id = np.arange(pixels.max() + 1)
    if colours:
        new_id[1:] = np.random.default_rng(0).choice(2**24 - 1, len(new_id) - 1, replace=False) + 1
    infos = [{"id": int(new_id[s["id"]]), "category_id": s["category_id"], "iscrowd": 0} for s in segments]
    return new_id[pixels].astype(np.int32), infos


def compare(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Whether all targets have the same type, shape and values."""
    differing = [key for key in expected if not same(found.get(key), expected[key])]
    return {"equal": not differing and set(found) == set(expected), **({"differing": differing} if differing else {})}


def same(one: Any, other: Any) -> bool:
    """Equal; tensors also in type, shape and bits."""
    if not isinstance(other, torch.Tensor):
        return bool(one == other)
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
