"""Row "drawing": a panoptic map over its image, against Detectron2's ``Visualizer.draw_panoptic_seg``.

The pictures differ in colours, letters and anti-aliasing. What has to agree is which segments they show.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils.visualizer import Visualizer
from measuring import interleaved
from postprocessing import enlarge
from scenes import smooth_scene

from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_outputs
from panoptic_plugin.visualization.colors import class_colors
from panoptic_plugin.visualization.draw import draw_panoptic

Segments = list[dict[str, Any]]
# name: (size, objects, share of things). The stuff between the objects is of 11 classes.
CASES = {
    "1024x2048, 30 objects": ((1024, 2048), 30, 0.2),
    "1024x2048, 57 objects": ((1024, 2048), 57, 0.3),
    "640x640, 15 objects": ((640, 640), 15, 0.5),
}


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case: segments, how many of them either picture shows, times, ratio."""
    metadata = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    for name, (size, num_objects, share) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        ids, segments = segmentation(size, num_objects, share)
        image = photograph(ids.numpy(), segments, metadata)
        ours = partial(draw_panoptic, image, ids.numpy(), metadata, segments_info=segments)
        theirs = partial(visualizer_picture, image, ids, metadata, segments)
        yield {
            "row": "drawing",
            "case": name,
            "segments": len(segments),
            "reference": "Detectron2",
            "equality": "the segments that are shown; the pictures differ in style",
            "asked": 60,
            "asked_ms": 50,
            **interleaved(ours, theirs, partial(compare, image=image, ids=ids.numpy()), rounds=rounds),
        }


def segmentation(size: tuple[int, int], num_objects: int, share: float) -> tuple[torch.Tensor, Segments]:
    """int64 (H, W) ids and segments of a smooth scene."""
    scene = smooth_scene(size, num_objects, share)
    maps = (enlarge(part) for part in (scene.logits, scene.heatmap, scene.offsets))
    return panoptic_from_outputs(*maps, **scene.arguments)


def photograph(ids: np.ndarray, segments: Segments, metadata: Metadata) -> np.ndarray:
    """uint8 (H, W, 3): segments a little apart in colour, with the noise of a camera."""
    colors = class_colors(metadata, 19)
    picture = np.full((*ids.shape, 3), 110, dtype=np.float32)
    for segment in segments:
        picture[ids == segment["id"]] = 60 + 0.4 * np.array(colors[segment["category_id"]])
    noise = np.random.default_rng(0).normal(scale=12, size=picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def visualizer_picture(image: np.ndarray, ids: torch.Tensor, metadata: Metadata, segments: Segments) -> np.ndarray:
    """Detectron2's picture."""
    return Visualizer(image, metadata).draw_panoptic_seg(ids, segments).get_image()


def compare(found: np.ndarray, expected: np.ndarray, *, image: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    """Whether both show the same segments: more than half of their pixels have another colour than in the image."""
    ours, theirs = _shown(found, image, ids), _shown(expected, image, ids)
    return {"equal": ours == theirs, "segments_shown": len(ours), "reference_shown": len(theirs)}


def _shown(picture: np.ndarray, image: np.ndarray, ids: np.ndarray) -> set[int]:
    changed = (picture != image).any(axis=2)[ids >= 0]
    present = ids[ids >= 0]
    shown = np.bincount(present, weights=changed) > 0.5 * np.bincount(present)
    return set(np.flatnonzero(shown).tolist())
