"""Panoptic-DeepLab's outputs to a panoptic map, in one call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch

from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import centers_of_pixels
from panoptic_plugin.postprocessing.instances import mean_probability
from panoptic_plugin.postprocessing.merge import merge_pixels, thing_table
from panoptic_plugin.postprocessing.pair_runs import PairRuns
from panoptic_plugin.postprocessing.pixel_scores import PixelScores
from panoptic_plugin.postprocessing.pixels import compact_labels, count_and_find, count_labels, pixels_of, put
from panoptic_plugin.postprocessing.semantic import SemanticLogits, SemanticMap, classify
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions, regroup
from panoptic_plugin.postprocessing.thing_repair import Groups, leave_out, spawn

MAJORITY = GroupingOptions()
SCORES = ("both", "semantic", "center")


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
        kept: places of ``pixels`` among those that were given; None where all of them, or none, belong to instances.
    """

    panoptic: torch.Tensor
    segments: list[dict[str, Any]]
    centers: torch.Tensor
    heights: torch.Tensor
    pixels: torch.Tensor
    instances: torch.Tensor
    kept: torch.Tensor | None = None


def panoptic_from_outputs(
    logits: torch.Tensor, heatmap: torch.Tensor, offsets: torch.Tensor, *, thing_ids: Collection[int], **arguments: Any
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Classify pixels, find centers, group thing pixels around them, merge the two and score the instances.

    Args:
        logits: float (C, H, W), semantic.
        heatmap: float (1, H, W), centers.
        offsets: float (2, H, W), (dy, dx) in pixels of this size.
        thing_ids: the categories that are things.
        arguments: the other ones of :func:`panoptic_from_semantic`.

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
    score: str = "both",
    **arguments: Any,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """As :func:`panoptic_from_outputs`, with the semantic map that the logits were classified to.

    Args:
        score: "semantic", the mean probability of the class over the segment; "center", the heatmap at its center;
            "both", their product.
        arguments: the other ones of :func:`group_labels`.

    Returns:
        int64 (H, W) panoptic ids, and one dict a segment, sorted by id: id, category_id, isthing, area (pixels), score
        and center_yx (both None for stuff).
    """
    found = group_labels(
        semantic.labels,
        heatmap,
        offsets,
        num_classes=logits.num_classes,
        thing_ids=thing_ids,
        pixels=semantic.pixels,
        scores=PixelScores(logits, semantic) if _needs_scores(arguments.get("grouping", MAJORITY)) else None,
        **arguments,
    )
    categories = torch.zeros(len(found.centers), dtype=torch.int64)
    for segment in found.segments:
        if segment["isthing"]:
            categories[segment["instance_id"] - 1] = segment["category_id"]
    if score == "center":
        scores = found.heights.double()
    else:
        if found.kept is not None:
            semantic = _only(semantic, found.kept)
        scores = mean_probability(logits, semantic, found.instances, categories.to(heatmap.device))
        scores = scores * found.heights if score == "both" else scores
    return found.panoptic, _describe(found.segments, scores.tolist(), found.centers.tolist())


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
    grouping: GroupingOptions = MAJORITY,
    scores: PixelScores | None = None,
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
        grouping: how pixels are grouped; the default is the plain rule.
        scores: probabilities at ``pixels``, which any other ``grouping`` needs.
    """
    labels = compact_labels(labels, num_classes)
    is_thing = thing_table(thing_ids, num_classes, labels.device)
    centers, heights = find_centers(heatmap.float(), threshold, nms_kernel, top_k)
    if pixels is None:
        area, pixels = count_and_find(labels, is_thing)
    else:
        area = count_labels(labels, num_classes)
    kept: torch.Tensor | None = None
    if _needs_scores(grouping) and len(pixels) > 0:
        assert scores is not None, "a grouping by classes needs their probabilities"
        groups = _group(centers, heights, heatmap, offsets, scores, is_thing, grouping)
        # Things become of other thing classes: the area of stuff, which is all that is asked of it, stays.
        labels = _relabelled(labels, scores, groups)
        centers, heights, instances = groups.centers, groups.heights, groups.instances
        if _leaves_out(grouping) or len(centers) == 0:
            kept = pixels_of(instances >= 0)
            pixels, instances = pixels.index_select(0, kept), instances.index_select(0, kept)
    else:
        pixels = pixels if len(centers) > 0 else pixels[:0]
        instances = centers_of_pixels(centers, offsets, pixels)
    panoptic, segments = merge_pixels(
        labels, area, pixels, instances, len(centers), is_thing, label_divisor, stuff_area, void
    )
    return Grouping(panoptic, segments, centers, heights, pixels, instances, kept)


def _leaves_out(options: GroupingOptions) -> bool:
    """Whether pixels of things may belong to no instance though there is one."""
    return options.void_radius > 0 or options.spawn_area > 0


def _needs_scores(options: GroupingOptions) -> bool:
    """Whether anything but the plain rule is asked for."""
    return options.mode != "majority" or _leaves_out(options)


def _group(
    centers: torch.Tensor,
    heights: torch.Tensor,
    heatmap: torch.Tensor,
    offsets: torch.Tensor,
    scores: PixelScores,
    is_thing: torch.Tensor,
    options: GroupingOptions,
) -> Groups:
    """Instances of all thing pixels by any of the rules, for the arguments see :func:`group_labels`."""
    if len(centers) > 0:
        nearest = centers_of_pixels(centers, offsets, scores.pixels)
        groups = Groups(centers, heights, *regroup(centers, offsets, nearest, scores, is_thing, options))
    else:
        nobody = torch.full(scores.pixels.shape, -1, dtype=torch.int32, device=offsets.device)
        groups = Groups(centers, heights, nobody, torch.zeros(0, dtype=torch.int64, device=offsets.device))
    if options.spawn_area > 0:
        groups = spawn(groups, heatmap, offsets, scores, options.spawn_radius, options.spawn_area)
    if options.void_radius > 0:
        groups = leave_out(groups, offsets, scores, options.void_radius, options.void_probability)
    return groups


def _relabelled(labels: torch.Tensor, scores: PixelScores, groups: Groups) -> torch.Tensor:
    """Labels (H, W) with the class of its instance at each pixel of one."""
    # The last entry is for pixels of no instance, -1, which keep their own.
    wanted = torch.cat([groups.categories, groups.categories.new_tensor([-1])])
    runs = PairRuns(groups.instances, scores.categories)
    wanted_of_runs = wanted[runs.instances.long()]
    index = runs.places((wanted_of_runs != runs.categories) & (wanted_of_runs >= 0))
    if len(index) == 0:
        return labels
    labels = labels.clone()
    classes = wanted.to(labels.dtype).index_select(0, groups.instances.index_select(0, index).long())
    put(labels.view(-1), scores.pixels.index_select(0, index), classes)
    return labels


def _only(semantic: SemanticMap, kept: torch.Tensor) -> SemanticMap:
    """Of the thing pixels only some."""
    pixels, top, log_sum = (each.index_select(0, kept) for each in (semantic.pixels, semantic.top, semantic.log_sum))
    return SemanticMap(semantic.labels, pixels, top, log_sum)


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
