"""Semantic classes and instances to one panoptic map (DeeperLab, https://arxiv.org/abs/1902.05093, section 3.4)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch


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
    num_instances = int(instance_ids.max()) + 1
    is_thing = thing_table(thing_ids, num_classes, semantic.device)
    instance_ids = instance_ids * is_thing[semantic]
    # counts[i, c]: pixels of class c in instance i; row 0 holds the pixels outside instances.
    pairs = instance_ids.flatten() * num_classes + semantic.flatten()
    counts = torch.bincount(pairs, minlength=num_instances * num_classes).view(num_instances, num_classes).cpu()
    thing_ids_of, things = _things(counts, label_divisor, void)
    stuff_ids_of, stuff = _stuff(counts[0], is_thing.cpu(), label_divisor, stuff_area, void)
    panoptic = torch.where(
        instance_ids > 0,
        thing_ids_of.to(semantic.device)[instance_ids],
        stuff_ids_of.to(semantic.device)[semantic],
    )
    return panoptic, sorted(things + stuff, key=lambda segment: segment["id"])


def _things(counts: torch.Tensor, label_divisor: int, void: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Panoptic id of each instance, int64 (K + 1,), and its segment, from counts (K + 1, classes) on the CPU."""
    area = counts.sum(dim=1)
    category = counts.argmax(dim=1)
    present = area > 0
    present[0] = False
    one_hot = torch.nn.functional.one_hot(category, counts.shape[1]) * present[:, None]
    number = one_hot.cumsum(dim=0).gather(1, category[:, None])[:, 0]
    if int(number.max()) >= label_divisor:
        raise ValueError(
            f"{int(number.max())} instances of one class found, but label_divisor {label_divisor} numbers at most "
            f"{label_divisor - 1}; raise it or keep fewer centers"
        )
    ids = torch.where(present, category * label_divisor + number, void)
    segments = [
        _segment(int(ids[i]), int(category[i]), True, int(area[i]), i) for i in present.nonzero()[:, 0].tolist()
    ]
    return ids, segments


def _stuff(
    area: torch.Tensor, is_thing: torch.Tensor, label_divisor: int, stuff_area: int, void: int
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Panoptic id of each class outside instances, int64 (classes,), and its segment, on the CPU."""
    kept = ~is_thing & (area >= stuff_area) & (area > 0)
    ids = torch.where(kept, torch.arange(len(area)) * label_divisor, void)
    segments = [_segment(int(ids[c]), c, False, int(area[c]), 0) for c in kept.nonzero()[:, 0].tolist()]
    return ids, segments


def _segment(panoptic_id: int, category: int, isthing: bool, area: int, instance_id: int) -> dict[str, Any]:
    return {
        "id": panoptic_id,
        "category_id": category,
        "isthing": isthing,
        "area": area,
        "instance_id": instance_id,
    }
