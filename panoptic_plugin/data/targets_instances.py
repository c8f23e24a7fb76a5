"""Training targets of a semantic head and masks of instances: categories, and which object a pixel is of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from panoptic_plugin.data.label_runs import find_runs
from panoptic_plugin.data.targets import Segments, number_segments, semantic_target
from panoptic_plugin.registry import TARGET_GENERATOR_REGISTRY


class InstanceTargets:
    """Targets of EfficientPS.

    Args:
        ignore_label: the semantic label of pixels without a segment.
        thing_ids: contiguous ids of the thing categories; the first in ascending order is class 0 of the instances.
        ignore_crowd_in_semantic: crowd groups get the ignore label. They are never instances.
    """

    def __init__(self, *, ignore_label: int, thing_ids: Collection[int], ignore_crowd_in_semantic: bool = False):
        self.ignore_label = ignore_label
        self.class_of = {category: number for number, category in enumerate(sorted(set(thing_ids)))}
        self.ignore_crowd_in_semantic = ignore_crowd_in_semantic

    def __call__(self, panoptic_ids: np.ndarray, segments_info: Segments) -> dict[str, Any]:
        """Make the targets of one image.

        Args:
            panoptic_ids: int (H, W), ids of the dataset's PNG.
            segments_info: dicts with ``id``, ``category_id`` (contiguous) and ``iscrowd``.

        Returns:
            sem_seg int64 (H, W); instance_classes int64 (T,), 0 to the number of thing classes - 1; instance_index
            int16 (H, W), t + 1 on object t and 0 elsewhere. Each object has a pixel; T may be 0.
        """
        numbers = number_segments(segments_info)
        runs = find_runs(panoptic_ids, list(numbers))
        areas = runs.areas()
        things = {
            numbers[one["id"]]: self.class_of[one["category_id"]]
            for one in segments_info
            if one["category_id"] in self.class_of and not one["iscrowd"] and areas[numbers[one["id"]]]
        }
        place = np.zeros(len(numbers) + 1, dtype=np.int16)
        place[list(things)] = np.arange(1, len(things) + 1)
        semantic = semantic_target(
            runs,
            numbers,
            segments_info,
            ignore_label=self.ignore_label,
            ignore_crowd=self.ignore_crowd_in_semantic,
        )
        return {
            "sem_seg": semantic,
            "instance_classes": torch.tensor(list(things.values()), dtype=torch.int64),
            "instance_index": torch.from_numpy(runs.spread(place[runs.numbers])),
        }


@TARGET_GENERATOR_REGISTRY.register()
def efficientps(cfg, metadata) -> InstanceTargets:
    """``INPUT.TARGET_GENERATOR: efficientps``."""
    return InstanceTargets(
        ignore_label=metadata.ignore_label,
        thing_ids=metadata.thing_dataset_id_to_contiguous_id.values(),
        ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC,
    )
