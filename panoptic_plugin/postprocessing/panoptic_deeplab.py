"""Panoptic-DeepLab's outputs to a panoptic map, in one call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch

from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import centers_of_pixels
from panoptic_plugin.postprocessing.instances import mean_probability
from panoptic_plugin.postprocessing.merge import merge_pixels, thing_table
from panoptic_plugin.postprocessing.pixels import compact_labels, look_up, pixels_of
from panoptic_plugin.postprocessing.semantic import SemanticLogits, SemanticMap, classify


class Grouping(NamedTuple):
    """A panoptic map and where it comes from.

    Attributes:
        panoptic: int64 (H, W) panoptic ids.
        segments: one dict a segment, sorted by id: id, category_id, isthing, area (pixels), instance_id (1 + its
            center, 0 for stuff).
        centers: int64 (K, 2) centers (y, x).
        heights: float (K,), the heatmap at the centers.
        pixels: int64 (P,) positions y * W + x of the pixels of instances.
        instances: integers (P,), 0 to K - 1.
    """

    panoptic: torch.Tensor
    segments: list[dict[str, Any]]
    centers: torch.Tensor
    heights: torch.Tensor
    pixels: torch.Tensor
    instances: torch.Tensor


def panoptic_from_outputs(
    logits: torch.Tensor, heatmap: torch.Tensor, offsets: torch.Tensor, *, thing_ids: Collection[int], **arguments: Any
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Classify pixels, find centers, group thing pixels around them, merge the two and score the instances.

    Args:
        logits: float (C, H, W), semantic.
        heatmap: float (1, H, W), centers.
        offsets: float (2, H, W), (dy, dx) in pixels of this size.
        thing_ids: the categories that are things.
        arguments: the other ones of :func:`group_labels`.

    Returns:
        int64 (H, W) panoptic ids, and one dict a segment; see :func:`panoptic_from_semantic`.
    """
    source = SemanticLogits(logits)
    semantic = classify(source, thing_table(thing_ids, source.num_classes, logits.device))
    return panoptic_from_semantic(source, semantic, heatmap, offsets, thing_ids=thing_ids, **arguments)


def panoptic_from_semantic(
    logits: SemanticLogits,
    semantic: SemanticMap,
    heatmap: torch.Tensor,
    offsets: torch.Tensor,
    *,
    thing_ids: Collection[int],
    **arguments: Any,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """As :func:`panoptic_from_outputs`, with the semantic map that the logits were classified to.

    Returns:
        int64 (H, W) panoptic ids, and one dict a segment, sorted by id: id, category_id, isthing, area (pixels), score
        and center_yx (both None for stuff). The score is the mean probability of the class over the segment times the
        heatmap at its center.
    """
    found = group_labels(
        semantic.labels,
        heatmap,
        offsets,
        num_classes=logits.num_classes,
        thing_ids=thing_ids,
        pixels=semantic.pixels,
        **arguments,
    )
    categories = torch.zeros(len(found.centers), dtype=torch.int64)
    for segment in found.segments:
        if segment["isthing"]:
            categories[segment["instance_id"] - 1] = segment["category_id"]
    probability = mean_probability(logits, semantic, found.instances, categories.to(heatmap.device))
    scores = (probability * found.heights).tolist()
    return found.panoptic, _describe(found.segments, scores, found.centers.tolist())


def group_labels(
    labels: torch.Tensor,
    heatmap: torch.Tensor,
    offsets: torch.Tensor,
    *,
    num_classes: int,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    threshold: float,
    nms_kernel: int,
    top_k: int | None,
    void: int = -1,
    pixels: torch.Tensor | None = None,
) -> Grouping:
    """Find centers, group thing pixels around them, merge with the semantic segmentation.

    Args:
        labels: integers (H, W), the category of each pixel.
        heatmap: float (1, H, W), centers.
        offsets: float (2, H, W), (dy, dx) in pixels of this size.
        num_classes: categories are 0 to ``num_classes`` - 1.
        thing_ids: the categories that are things.
        label_divisor: ``id = category * label_divisor + instance``.
        stuff_area: stuff of fewer pixels becomes void.
        threshold: lowest heatmap value of a center.
        nms_kernel: window in which a center is the highest value.
        top_k: at most so many centers.
        void: id of pixels that belong to nothing.
        pixels: int64 (P,) ascending positions y * W + x of the pixels of things, where they are known; saves a search.
    """
    labels = compact_labels(labels, num_classes)
    is_thing = thing_table(thing_ids, num_classes, labels.device)
    centers, heights = find_centers(heatmap.float(), threshold, nms_kernel, top_k)
    if pixels is None:
        pixels = pixels_of(look_up(is_thing, labels))
    if len(centers) == 0:
        pixels = pixels[:0]
    instances = centers_of_pixels(centers, offsets, pixels)
    panoptic, segments = merge_pixels(
        labels, pixels, instances, len(centers), is_thing, label_divisor, stuff_area, void
    )
    return Grouping(panoptic, segments, centers, heights, pixels, instances)


def _describe(segments: list[dict[str, Any]], scores: list[float], centers_yx: list[list[int]]) -> list[dict[str, Any]]:
    """Segments with ``score`` and ``center_yx`` in the place of ``instance_id``."""
    described = []
    for segment in segments:
        fields = {key: value for key, value in segment.items() if key != "instance_id"}
        instance = segment["instance_id"] - 1
        fields["score"] = scores[instance] if segment["isthing"] else None
        fields["center_yx"] = tuple(centers_yx[instance]) if segment["isthing"] else None
        described.append(fields)
    return described
