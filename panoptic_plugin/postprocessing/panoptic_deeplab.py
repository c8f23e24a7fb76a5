"""Panoptic-DeepLab's outputs to a panoptic map, in one call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import group_pixels
from panoptic_plugin.postprocessing.instances import mean_class_probability
from panoptic_plugin.postprocessing.merge import merge, thing_table


def panoptic_from_outputs(
    logits: torch.Tensor,
    heatmap: torch.Tensor,
    offsets: torch.Tensor,
    *,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    threshold: float,
    nms_kernel: int,
    top_k: int | None,
    void: int = -1,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Find centers, group thing pixels around them, merge with the semantic segmentation.

    Args:
        logits: float (C, H, W), semantic.
        heatmap: float (1, H, W), centers.
        offsets: float (2, H, W), (dy, dx) in pixels of this size.
        thing_ids: the categories that are things.
        label_divisor: ``id = category * label_divisor + instance``.
        stuff_area: stuff of fewer pixels becomes void.
        threshold: lowest heatmap value of a center.
        nms_kernel: window in which a center is the highest value.
        top_k: at most so many centers.
        void: id of pixels that belong to nothing.

    Returns:
        int64 (H, W) panoptic ids, and one dict a segment, sorted by id: id, category_id, isthing, area (pixels), score
        and center_yx (both None for stuff). The score is the mean probability of the class over the segment times the
        heatmap at its center.
    """
    logits, heatmap, offsets = logits.float(), heatmap.float(), offsets.float()
    semantic = logits.argmax(dim=0)
    centers, heights = find_centers(heatmap, threshold, nms_kernel, top_k)
    is_thing = thing_table(thing_ids, logits.shape[0], logits.device)
    instance_ids = group_pixels(centers, offsets, is_thing[semantic])
    panoptic, segments = merge(semantic, instance_ids, thing_ids, label_divisor, stuff_area, void)
    categories = torch.zeros(len(centers) + 1, dtype=torch.int64)
    for segment in segments:
        if segment["isthing"]:
            categories[segment["instance_id"]] = segment["category_id"]
    probability = mean_class_probability(logits, instance_ids, categories.to(logits.device))
    scores = (probability[1:] * heights).tolist()
    return panoptic, _describe(segments, scores, centers.tolist())


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
