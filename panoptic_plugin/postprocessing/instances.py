"""Instance segmentation read off a panoptic map: scores, masks, boxes."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from panoptic_plugin.postprocessing.pixels import pixels_of, put, rows_and_columns
from panoptic_plugin.postprocessing.semantic import SemanticLogits, SemanticMap


def mean_probability(
    logits: SemanticLogits, semantic: SemanticMap, instances: torch.Tensor, categories: torch.Tensor
) -> torch.Tensor:
    """Softmax probability of an instance's class, averaged over its pixels.

    Args:
        logits: of the image.
        semantic: what the logits were classified to.
        instances: integers (P,), the instance of each of ``semantic.pixels``, 0 to K - 1; empty where there is none.
        categories: int64 (K,), the class of each instance.

    Returns:
        float64 (K,), 0 for an instance without pixels.
    """
    num_instances = len(categories)
    if len(instances) == 0:
        return torch.zeros(num_instances, dtype=torch.float64, device=categories.device)
    category = categories.index_select(0, instances)
    own = semantic.top.clone()
    # A pixel whose own class is not that of its instance: fetch the logit of the latter.
    others = (semantic.labels.reshape(-1).index_select(0, semantic.pixels) != category).nonzero()[:, 0]
    own[others] = logits.at(category[others], semantic.pixels[others])
    probability = (own - semantic.log_sum).exp_()
    total = torch.bincount(instances, weights=probability.double(), minlength=num_instances)
    return total / torch.bincount(instances, minlength=num_instances).clamp(min=1)


def instances_of_panoptic(
    panoptic: torch.Tensor, segments: Sequence[dict[str, Any]], thing_pixels: torch.Tensor | None = None
) -> Instances:
    """The thing segments as Detectron2's ``Instances``.

    Args:
        panoptic: int64 (H, W) panoptic ids, -1 or more.
        segments: dicts with id, category_id, isthing, score.
        thing_pixels: int64 (P,) positions y * W + x among which all those of things are, where they are known.

    Returns:
        ``Instances`` of size (H, W), in the order of ``segments``, with pred_classes int64 (N,), pred_masks bool
        (N, H, W), pred_boxes, scores float32 (N,); all present where N is 0.
    """
    device, (height, width) = panoptic.device, panoptic.shape
    things = [segment for segment in segments if segment["isthing"]]
    ids = torch.tensor([segment["id"] for segment in things], dtype=torch.int64, device=device)
    pixels, owners = _pixels_of_ids(panoptic, ids, thing_pixels)
    masks = _empty_masks((len(things), height, width), device)
    put(masks.view(-1), owners * (height * width) + pixels, torch.ones((), dtype=torch.bool, device=device))
    result = Instances((height, width))
    result.pred_classes = torch.tensor([segment["category_id"] for segment in things], dtype=torch.int64, device=device)
    result.pred_masks = masks
    result.pred_boxes = Boxes(_boxes(pixels, owners, (len(things), height, width)))
    result.scores = torch.tensor([segment["score"] for segment in things], dtype=torch.float32, device=device)
    return result


def _pixels_of_ids(
    panoptic: torch.Tensor, ids: torch.Tensor, among: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions y * W + x of all pixels that have one of the ids, and which: int64 (P,), 0 to len(ids) - 1."""
    if len(ids) == 0:
        return ids, ids
    # Entry 0 is for void, the last one for all ids above those wanted.
    owner_of = torch.full((int(ids.max()) + 3,), -1, dtype=torch.int16, device=ids.device)
    owner_of[ids + 1] = torch.arange(len(ids), dtype=torch.int16, device=ids.device)
    found = panoptic.reshape(-1) if among is None else panoptic.reshape(-1).index_select(0, among)
    owners = owner_of.index_select(0, (found + 1).clamp_(max=len(owner_of) - 1).int())
    kept = pixels_of(owners >= 0)
    return (kept if among is None else among.index_select(0, kept)), owners.index_select(0, kept).long()


def _empty_masks(shape: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """bool masks of zeros; on a CPU the system gives the memory page by page, where something is written."""
    size = math.prod(shape)
    if device.type != "cpu" or size == 0 or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(shape, dtype=torch.bool, device=device)
    # NumPy would ask for pages of 2 MiB, which is to fill most of the masks with zeros.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.bool).view(shape)


def _boxes(pixels: torch.Tensor, owners: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Tight boxes of the masks (N, H, W) that have the pixels: float32 (N, 4) as x0, y0, x1, y1, the last two one past
    the last pixel; 0, 0, 0, 0 for an empty mask."""
    num_masks, height, width = shape
    edges = []
    y, x = rows_and_columns(pixels, width)
    for coordinate, length in ((x.long(), width), (y.long(), height)):
        has_pixel = torch.zeros((num_masks, length), dtype=torch.bool, device=pixels.device)
        has_pixel[owners, coordinate] = True
        low = has_pixel.int().argmax(dim=1)
        high = length - has_pixel.flip(1).int().argmax(dim=1)
        some = has_pixel.any(dim=1)
        edges += [low * some, high * some]
    x0, x1, y0, y1 = edges
    return torch.stack([x0, y0, x1, y1], dim=1).float()
