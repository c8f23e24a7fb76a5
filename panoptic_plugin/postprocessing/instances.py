"""Instance segmentation read off a panoptic map: scores, masks, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

# Pixels whose class probabilities are computed at a time: 133 classes of so many are 35 MB.
PIXELS_AT_A_TIME = 1 << 16


def mean_class_probability(logits: torch.Tensor, instance_ids: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
    """Softmax probability of an instance's class, averaged over its pixels.

    Args:
        logits: float (C, H, W).
        instance_ids: int64 (H, W), 0 outside instances.
        categories: int64 (K + 1,), the class of each instance id; entry 0 is not used.

    Returns:
        float64 (K + 1,), 0 for an instance without pixels and for entry 0.
    """
    num_instances = len(categories)
    pixels = instance_ids.flatten().nonzero()[:, 0]
    total = torch.zeros(num_instances, dtype=torch.float64, device=logits.device)
    for part in pixels.split(PIXELS_AT_A_TIME):
        instance = instance_ids.flatten()[part]
        probability = logits.flatten(1)[:, part].float().softmax(dim=0)
        own = probability.gather(0, categories[instance][None])[0]
        total += torch.bincount(instance, weights=own.double(), minlength=num_instances)
    area = torch.bincount(instance_ids.flatten()[pixels], minlength=num_instances)
    return total / area.clamp(min=1)


def boxes_of_masks(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes of masks bool (N, H, W): float32 (N, 4) as x0, y0, x1, y1 with x1, y1 one past the last pixel.

    An empty mask gets the box 0, 0, 0, 0.
    """
    if masks.shape[0] == 0:
        return torch.zeros((0, 4), dtype=torch.float32, device=masks.device)
    edges = []
    for has_pixel in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        length = has_pixel.shape[1]
        low = has_pixel.int().argmax(dim=1)
        high = length - has_pixel.flip(1).int().argmax(dim=1)
        some = has_pixel.any(dim=1)
        edges += [low * some, high * some]
    x0, x1, y0, y1 = edges
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def instances_of_panoptic(panoptic: torch.Tensor, segments: Sequence[dict[str, Any]]) -> Instances:
    """The thing segments as Detectron2's ``Instances``.

    Args:
        panoptic: int64 (H, W) panoptic ids.
        segments: dicts with id, category_id, isthing, score.

    Returns:
        ``Instances`` of size (H, W), in the order of ``segments``, with pred_classes int64 (N,), pred_masks bool
        (N, H, W), pred_boxes, scores float32 (N,); all present where N is 0.
    """
    device = panoptic.device
    things = [segment for segment in segments if segment["isthing"]]
    ids = torch.tensor([segment["id"] for segment in things], dtype=torch.int64, device=device)
    masks = panoptic[None] == ids[:, None, None]
    result = Instances(tuple(panoptic.shape))
    result.pred_classes = torch.tensor([segment["category_id"] for segment in things], dtype=torch.int64, device=device)
    result.pred_masks = masks
    result.pred_boxes = Boxes(boxes_of_masks(masks))
    result.scores = torch.tensor([segment["score"] for segment in things], dtype=torch.float32, device=device)
    return result
