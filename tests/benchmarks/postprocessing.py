"""Row "post-processing": category map, heatmap and offsets at the size of the image to panoptic ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from detectron2.projects.panoptic_deeplab import post_processing as upstream
from measuring import interleaved, peak_mib
from scenes import STRIDE, smooth_scene
from torch.nn import functional as F

from panoptic_plugin.postprocessing.panoptic_deeplab import Grouping, group_labels

PLAIN = ", plain squared distance"
# name: ((height, width), objects, share of things, COCO's classes and window, ratio asked, milliseconds asked)
CASES = {
    "1024x2048, 30": ((1024, 2048), 30, 0.07, False, 250, 30),
    "1024x2048, 30" + PLAIN: ((1024, 2048), 30, 0.07, False, 35, 30),
    "1024x2048, 56": ((1024, 2048), 56, 0.16, False, 450, 30),
    "1024x2048, 199": ((1024, 2048), 199, 0.16, False, 1300, 30),
    "640x640, 15": ((640, 640), 15, 0.5, True, 110, 15),
    "640x640, 151": ((640, 640), 151, 0.86, True, 400, 15),
    "1024x2048, 30, all things" + PLAIN: ((1024, 2048), 30, 0.07, False, None, None),
}
PEAK_MIB_ASKED = 64


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case: equality, number of centers, times, ratios, memory."""
    for name, (size, num_objects, share, coco, asked, asked_ms) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        scene = smooth_scene(size, num_objects, share, coco=coco)
        if "all things" in name:
            scene.arguments["thing_ids"] = range(len(scene.logits))
        logits, heatmap, offsets = (enlarge(part) for part in (scene.logits, scene.heatmap, scene.offsets))
        labels, num_classes = logits.argmax(dim=0), len(logits)
        del logits

        def ours(labels=labels, heatmap=heatmap, offsets=offsets, num_classes=num_classes, scene=scene):
            return group_labels(labels, heatmap, offsets, num_classes=num_classes, **scene.arguments)

        def theirs(labels=labels, heatmap=heatmap, offsets=offsets, scene=scene):
            return get_panoptic(labels, heatmap, offsets, scene.arguments)

        record = {"row": "post-processing", "case": name, "peak_mib": peak_mib(ours), "peak_mib_asked": PEAK_MIB_ASKED}
        compare = partial(differences, offsets=offsets)
        with plain_distance() if PLAIN in name else nullcontext():
            record |= interleaved(ours, theirs, compare, rounds=rounds)
        # Without its root and the rounding of it a distance breaks some ties in another way.
        allowed = record["different_ties"] if PLAIN in name else 0
        record |= {
            "reference": "Detectron2" + (PLAIN if PLAIN in name else ""),
            "equal": record["different_pixels"] == allowed,
            "equality": "every pixel's id" + (" but ties" if PLAIN in name else ""),
            "asked": asked,
        }
        yield record | ({"asked_ms": asked_ms} if asked_ms else {})


def differences(found: Grouping, expected: tuple[torch.Tensor, torch.Tensor], offsets: torch.Tensor) -> dict[str, Any]:
    """What is not equal, and what kind of scene it is."""
    different = (found.panoptic != expected[0][0]).nonzero()
    return {
        "centers": len(found.centers),
        "reference_centers": expected[1].shape[1],
        "thing_share": round(len(found.pixels) / found.panoptic.numel(), 3),
        "pixels": found.panoptic.numel(),
        "different_pixels": len(different),
        "different_ties": count_ties(found.centers, offsets, different),
    }


def count_ties(centers: torch.Tensor, offsets: torch.Tensor, pixels_yx: torch.Tensor) -> int:
    """How many of the pixels (N, 2) point to where two centers are equally near, by float64, to 1e-4 pixels."""
    if len(centers) < 2 or len(pixels_yx) == 0:
        return 0
    targets = pixels_yx + offsets[:, pixels_yx[:, 0], pixels_yx[:, 1]].T.double()
    nearest = torch.cdist(targets, centers.double()).topk(2, largest=False).values
    return int((nearest[:, 1] - nearest[:, 0] < 1e-4).sum())


def enlarge(low: torch.Tensor) -> torch.Tensor:
    """What Detectron2's heads do with their output."""
    return F.interpolate(low[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]


def get_panoptic(labels: torch.Tensor, heatmap: torch.Tensor, offsets: torch.Tensor, arguments: dict) -> Any:
    """Detectron2's own function."""
    arguments = {**arguments, "thing_ids": list(arguments["thing_ids"])}
    return upstream.get_panoptic_segmentation(labels[None], heatmap.clone(), offsets, void_label=-1, **arguments)


@contextmanager
def plain_distance() -> Iterator[None]:
    """Detectron2 as if its distance were a plain squared sum, which is ten times as fast on a CPU as its norm."""
    original = upstream.torch
    upstream.torch = _TorchWithPlainNorm()
    try:
        yield
    finally:
        upstream.torch = original


class _TorchWithPlainNorm:
    """The module, with a ``norm`` that adds the squares of the two coordinates."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def norm(difference: torch.Tensor, dim: int) -> torch.Tensor:
        return difference[..., 0] ** 2 + difference[..., 1] ** 2
