"""Row "post-processing": category map, heatmap and offsets at the size of the image to panoptic ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.projects.panoptic_deeplab import post_processing as upstream
from measuring import interleaved, peak_mib
from scenes import STRIDE, smooth_scene
from torch.nn import functional as F

from panoptic_plugin.postprocessing.panoptic_deeplab import Grouping, group_labels

CASES = {
    "1024x2048, 30": ((1024, 2048), 30, 0.07, False),
    "1024x2048, 56": ((1024, 2048), 56, 0.16, False),
    "1024x2048, 199": ((1024, 2048), 199, 0.16, False),
    "640x640, 15": ((640, 640), 15, 0.5, True),
    "640x640, 151": ((640, 640), 151, 0.86, True),
}


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case: equality, number of centers, times, ratios, memory."""
    for name, (size, num_objects, share, coco) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        scene = smooth_scene(size, num_objects, share, coco=coco)
        logits, heatmap, offsets = (enlarge(part) for part in (scene.logits, scene.heatmap, scene.offsets))
        labels, num_classes = logits.argmax(dim=0), len(logits)
        del logits

        def ours(labels=labels, heatmap=heatmap, offsets=offsets, num_classes=num_classes, scene=scene):
            return group_labels(labels, heatmap, offsets, num_classes=num_classes, **scene.arguments)

        def theirs(labels=labels, heatmap=heatmap, offsets=offsets, scene=scene):
            return get_panoptic(labels, heatmap, offsets, scene.arguments)

        yield {
            "row": "post-processing",
            "case": name,
            "peak_mib": peak_mib(ours),
            **interleaved(ours, theirs, differences, rounds=rounds),
            **_one_line_fix(ours, theirs, rounds, name),
        }


def differences(found: Grouping, expected: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """What is not equal, and what kind of scene it is."""
    return {
        "centers": len(found.centers),
        "reference_centers": expected[1].shape[1],
        "thing_share": round(len(found.pixels) / found.panoptic.numel(), 3),
        "pixels": found.panoptic.numel(),
        "different_pixels": int((found.panoptic != expected[0][0]).sum()),
    }


def enlarge(low: torch.Tensor) -> torch.Tensor:
    """What Detectron2's heads do with their output."""
    return F.interpolate(low[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]


def get_panoptic(labels: torch.Tensor, heatmap: torch.Tensor, offsets: torch.Tensor, arguments: dict) -> Any:
    """Detectron2's own function."""
    arguments = {**arguments, "thing_ids": list(arguments["thing_ids"])}
    return upstream.get_panoptic_segmentation(labels[None], heatmap.clone(), offsets, void_label=-1, **arguments)


def _one_line_fix(ours: Any, theirs: Any, rounds: int, name: str) -> dict[str, Any]:
    """The ratio to a Detectron2 whose distance is a plain squared sum, for the first case only."""
    if name != next(iter(CASES)):
        return {}
    original = upstream.torch
    upstream.torch = _TorchWithPlainNorm()
    try:
        figures = interleaved(ours, theirs, differences, rounds=rounds)
    finally:
        upstream.torch = original
    names = {"reference_ms": "plain_ms", "ratio": "plain_ratio", "different_pixels": "plain_different_pixels"}
    return {short: figures[long] for long, short in names.items()}


class _TorchWithPlainNorm:
    """The module, with a ``norm`` that adds the squares of the two coordinates."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def norm(difference: torch.Tensor, dim: int) -> torch.Tensor:
        return difference[..., 0] ** 2 + difference[..., 1] ** 2
