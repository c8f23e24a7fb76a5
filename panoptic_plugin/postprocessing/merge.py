"""Semantic classes and instances to one panoptic map (DeeperLab, https://arxiv.org/abs/1902.05093, section 3.4)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from panoptic_plugin.postprocessing.pair_runs import PairRuns
from panoptic_plugin.postprocessing.pixels import compact_labels, count_labels, look_up, parts_of, pixels_of, put, take

# What is worked on at a time: it bounds the memory, and on a CPU fits its cache.
PIXELS_AT_A_TIME = 1 << 17


def thing_table(thing_ids: Collection[int], num_classes: int, device: torch.device) -> torch.Tensor:
    """bool (num_classes,): whether a category is a thing."""
    table = torch.zeros(num_classes, dtype=torch.bool)
    table[[category for category in thing_ids if category < num_classes]] = True
    return table.to(device)


def merge(
    semantic: torch.Tensor,
    instance_ids: torch.Tensor,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    void: int = -1,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Give each instance the class that most of its pixels have, and keep stuff that is large enough.

    Args:
        semantic: int64 (H, W), category of each pixel, 0 or more.
        instance_ids: int64 (H, W), 0 outside instances; only pixels of thing categories count as instances.
        thing_ids: the categories that are things.
        label_divisor: ``id = category * label_divisor + instance``.
        stuff_area: stuff of fewer pixels becomes void.
        void: id of pixels that belong to nothing.

    Returns:
        int64 (H, W) panoptic ids, and one dict a segment, sorted by id: id, category_id, isthing, area (pixels) and
        instance_id (its number in ``instance_ids``, 0 for stuff). Things of a class are numbered from 1 in the order
        of ``instance_ids``; of equally frequent classes the smallest is taken.

    Raises:
        ValueError: more instances of one class than ``label_divisor`` can number.
    """
    num_classes = max(int(semantic.max()) + 1, *(category + 1 for category in thing_ids), 1)
    is_thing = thing_table(thing_ids, num_classes, semantic.device)
    labels = compact_labels(semantic, num_classes)
    pixels = pixels_of((instance_ids > 0) & look_up(is_thing, labels))
    instances = instance_ids.reshape(-1).index_select(0, pixels) - 1
    area, num_instances = count_labels(labels, num_classes), int(instance_ids.max())
    return merge_pixels(labels, area, pixels, instances, num_instances, is_thing, label_divisor, stuff_area, void)


def merge_pixels(
    labels: torch.Tensor,
    area: torch.Tensor,
    pixels: torch.Tensor,
    instances: torch.Tensor,
    num_instances: int,
    is_thing: torch.Tensor,
    label_divisor: int,
    stuff_area: int,
    void: int,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """As :func:`merge`, with instances as a list of pixels.

    Args:
        labels: uint8 or int64 (H, W), category of each pixel.
        area: int64 (num_classes,), pixels of each category.
        pixels: int64 (P,) positions y * W + x of the pixels that belong to instances, all of thing categories.
        instances: integers (P,), 0 to ``num_instances`` - 1; the segments count them from 1.
        num_instances: how many there may be.
        is_thing: bool (num_classes,).
        label_divisor: as in :func:`merge`.
        stuff_area: as in :func:`merge`.
        void: as in :func:`merge`.
    """
    num_classes = len(is_thing)
    parts = parts_of(len(pixels), PIXELS_AT_A_TIME)
    runs = [PairRuns(instances[some], take(labels.reshape(-1), pixels[some])) for some in parts]
    counts = torch.zeros((num_instances, num_classes), dtype=torch.int64, device=labels.device)
    for part in runs:
        counts += part.count_pairs((num_instances, num_classes))
    thing_ids_of, things = _things(counts.cpu(), label_divisor, void)
    stuff_ids_of, stuff = _stuff(area.cpu(), is_thing.cpu(), label_divisor, stuff_area, void)
    panoptic = look_up(stuff_ids_of.to(labels.device), labels)
    thing_ids_of = thing_ids_of.to(labels.device)
    for some, part in zip(parts, runs, strict=True):
        put(panoptic.view(-1), pixels[some], part.spread(thing_ids_of.index_select(0, part.instances)))
    return panoptic, sorted(things + stuff, key=lambda segment: segment["id"])


def _things(counts: torch.Tensor, label_divisor: int, void: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Panoptic id of each instance, int64 (K,), and its segment, from counts (K, classes) on the CPU."""
    num_instances, num_classes = counts.shape
    if num_instances == 0:
        return torch.zeros(0, dtype=torch.int64), []
    area = counts.sum(dim=1).tolist()
    ids, segments, numbers = [void] * num_instances, [], [0] * num_classes
    for instance, category in enumerate(counts.argmax(dim=1).tolist()):
        if area[instance] > 0:
            numbers[category] += 1
            ids[instance] = category * label_divisor + numbers[category]
            segments.append(_segment(ids[instance], category, area[instance], instance_id=instance + 1))
    if max(numbers) >= label_divisor:
        raise ValueError(
            f"{max(numbers)} instances of one class found, but label_divisor {label_divisor} numbers at most "
            f"{label_divisor - 1}; raise it or keep fewer centers"
        )
    return torch.tensor(ids, dtype=torch.int64), segments


def _stuff(
    area: torch.Tensor, is_thing: torch.Tensor, label_divisor: int, stuff_area: int, void: int
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Panoptic id of each class outside instances, int64 (classes,), and its segment, on the CPU."""
    kept = ~is_thing & (area >= stuff_area) & (area > 0)
    ids = torch.where(kept, torch.arange(len(area)) * label_divisor, void)
    fields = zip(ids.tolist(), area.tolist(), kept.tolist(), strict=True)
    segments = [_segment(id_, c, pixels, instance_id=0) for c, (id_, pixels, is_kept) in enumerate(fields) if is_kept]
    return ids, segments


def _segment(panoptic_id: int, category: int, area: int, *, instance_id: int) -> dict[str, Any]:
    return {
        "id": panoptic_id,
        "category_id": category,
        "isthing": instance_id > 0,
        "area": area,
        "instance_id": instance_id,
    }
