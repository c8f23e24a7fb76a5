"""Row "targets of queries": from a label to DETR's classes, boxes and masks, against the steps of the official loader.

It makes a mask a segment, takes boxes from the masks and resizes all of them; ours resizes the label and makes one map.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import interleaved
from PIL import Image
from targets import label
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from panoptic_plugin.data.reading import id_pixels
from panoptic_plugin.data.targets_detr import QueryTargets
from panoptic_plugin.structures import ids_to_rgb

Targets = dict[str, torch.Tensor]
# name: (size of the scene, segments, size after augmentation or None, ratio to reach)
FROM_IDS = {"1024x2048, 48 segments": ((1024, 2048), 48), "640x640, 15 segments": ((640, 640), 15)}
FROM_PNG = {"PNG of 1024x2048 to 800x1600, 48 segments": ((1024, 2048), 48, (800, 1600), 45)}


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One record a case."""
    for name, (size, num_segments) in FROM_IDS.items():
        ids, segments, ours = scene(size, num_segments, quick=quick)
        yield {
            **about(name, segments, "a mask a segment", "every mask, boxes within 1e-6"),
            "asked": None,
            **interleaved(
                partial(ours, ids, segments),
                partial(one_mask_each, ids, segments),
                partial(compare, masks=1.0, boxes=1e-6),
                rounds=rounds,
            ),
        }
    for name, (size, num_segments, resized, asked) in FROM_PNG.items():
        ids, segments, ours = scene(size, num_segments, quick=quick)
        resized = tuple(side // 4 for side in resized) if quick else resized
        png = io.BytesIO()
        Image.fromarray(ids_to_rgb(ids)).save(png, format="PNG")
        content = png.getvalue()
        yield {
            # Boxes: officially of the label before the augmentation. Masks: two rules of the nearest pixel.
            **about(name, segments, "official steps", "mean IoU of the masks 0.95, boxes within 1 %"),
            "asked": asked,
            **interleaved(
                partial(whole_way, content, segments, resized, ours),
                partial(official_way, content, segments, resized),
                partial(compare, masks=0.95, boxes=0.01),
                rounds=rounds,
            ),
        }


def about(name: str, segments: list[dict[str, Any]], reference: str, equality: str) -> dict[str, Any]:
    return {
        "row": "targets of queries",
        "case": name,
        "segments": len(segments),
        "reference": reference,
        "equality": equality,
    }


def scene(size: tuple[int, int], num_segments: int, *, quick: bool) -> tuple[np.ndarray, list[Any], QueryTargets]:
    """Ids of 24 bits, their segments, and what makes targets of them."""
    if quick:
        size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
    ids, segments = label(size, num_segments, 0.2, colours=True)
    segments = sorted(segments, key=lambda one: -int((ids == one["id"]).sum()))[:num_segments]
    return ids, segments, QueryTargets(slots={number: number for number in range(200)}, num_queries=100)


def whole_way(content: bytes, segments: list[Any], size: tuple[int, int], make: QueryTargets) -> Targets:
    with Image.open(io.BytesIO(content)) as image:
        ids = id_pixels(image.resize(size[::-1], Image.Resampling.NEAREST))
    return make(ids.astype(np.int32), segments)


def official_way(content: bytes, segments: list[Any], size: tuple[int, int]) -> Targets:
    with Image.open(io.BytesIO(content)) as image:
        rgb = np.asarray(image).astype(np.uint32)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 256 * 256 * rgb[..., 2]
    wanted = np.array([one["id"] for one in segments])
    masks = torch.as_tensor(ids == wanted[:, None, None])
    boxes = boxes_of_all(masks)
    height, width = ids.shape
    masks = F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0] > 0.5
    return as_targets(masks, boxes / torch.tensor([width, height] * 2), segments)


def boxes_of_all(masks: torch.Tensor) -> torch.Tensor:
    """Smallest and largest coordinates of all masks at once, float (K, 4), one past the last pixel."""
    height, width = masks.shape[1:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    edges = []
    for places in (x, y):
        placed = masks * places
        edges.append(placed.masked_fill(~masks, 1e8).flatten(1).min(dim=1).values)
        edges.append(placed.flatten(1).max(dim=1).values + 1)
    return torch.stack([edges[0], edges[2], edges[1], edges[3]], dim=1)


def one_mask_each(ids: np.ndarray, segments: list[Any]) -> Targets:
    """Boxes mask by mask, as torchvision does it."""
    masks = torch.as_tensor(ids == np.array([one["id"] for one in segments])[:, None, None])
    boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    return as_targets(masks, boxes / torch.tensor([ids.shape[1], ids.shape[0]] * 2), segments)


def as_targets(masks: torch.Tensor, edges: torch.Tensor, segments: list[Any]) -> Targets:
    center, size = (edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]
    labels = torch.tensor([one["category_id"] for one in segments])
    return {"labels": labels, "boxes": torch.cat([center, size], dim=1), "masks": masks}


def compare(found: Targets, expected: Targets, *, masks: float, boxes: float) -> dict[str, Any]:
    """Whether classes are the same, boxes as near and masks as alike as they have to be."""
    same_labels = torch.equal(found["labels"], expected["labels"])
    error = float((found["boxes"] - expected["boxes"]).abs().max())
    shares = []
    for number, mask in enumerate(expected["masks"], start=1):
        own = found["segment_index"] == number
        shares.append(float((own & mask).sum() / (own | mask).sum()))
    mean = sum(shares) / len(shares)
    return {
        "equal": same_labels and error <= boxes and mean >= masks,
        "largest_box_error": round(error, 7),
        "mean_mask_iou": round(mean, 4),
    }
