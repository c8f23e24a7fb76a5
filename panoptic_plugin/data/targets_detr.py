"""Training targets of DETR: the segments of an image as a set, from the id map."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils.logger import log_first_n

from panoptic_plugin.data.label_runs import find_runs
from panoptic_plugin.label_space import head_slots
from panoptic_plugin.registry import TARGET_GENERATOR_REGISTRY


class QueryTargets:
    """Classes, boxes and masks of all segments that have a pixel.

    Args:
        slots: contiguous category -> slot of the class head.
        num_queries: queries of the model; an image with more segments is reported, because some stay unmatched.
        with_crowds: whether crowd groups are segments, as in the official panoptic training.
    """

    def __init__(self, *, slots: Mapping[int, int], num_queries: int, with_crowds: bool = True) -> None:
        self.slots = dict(slots)
        self.num_queries = num_queries
        self.with_crowds = with_crowds

    def __call__(self, panoptic_ids: np.ndarray, segments_info: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make the targets of one image.

        Args:
            panoptic_ids: int (H, W), ids of the dataset's PNG.
            segments_info: dicts with ``id``, ``category_id`` (contiguous) and ``iscrowd``.

        Returns:
            labels int64 (T,), slots of the head; boxes float32 (T, 4), cxcywh in parts of (W, H); segment_index int16
            (H, W), t + 1 on segment t and 0 elsewhere. T is 0 for an image without segments.
        """
        wanted = [one for one in segments_info if self.with_crowds or not one["iscrowd"]]
        wanted = list({one["id"]: one for one in wanted}.values())
        runs = find_runs(panoptic_ids, [one["id"] for one in wanted])
        present = runs.areas()[1:] > 0
        place = np.concatenate([[0], np.cumsum(present) * present]).astype(np.int16)
        index = runs.spread(place[runs.numbers])
        kept = [one for one, has_pixels in zip(wanted, present, strict=True) if has_pixels]
        if len(kept) > self.num_queries:
            log_first_n(
                logging.WARNING,
                f"An image has {len(kept)} segments and the model {self.num_queries} queries: the rest trains nothing. "
                "Raise MODEL.DETR.NUM_OBJECT_QUERIES",
                n=1,
                name=__name__,
            )
        return {
            "labels": torch.tensor([self.slots[one["category_id"]] for one in kept], dtype=torch.int64),
            "boxes": _centered(runs.boxes()[present], *index.shape),
            "segment_index": torch.from_numpy(index),
        }


def _centered(edges: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Edges x0, y0, x1, y1 in pixels, (T, 4), as float32 cxcywh in parts of the image."""
    parts = edges / np.array([width, height, width, height])
    center, size = (parts[:, :2] + parts[:, 2:]) / 2, parts[:, 2:] - parts[:, :2]
    return torch.from_numpy(np.concatenate([center, size], axis=1).astype(np.float32))


@TARGET_GENERATOR_REGISTRY.register()
def detr(cfg, metadata) -> QueryTargets:
    """``INPUT.TARGET_GENERATOR: detr``."""
    settings = cfg.MODEL.DETR
    return QueryTargets(
        slots=head_slots(metadata, settings.LABEL_SPACE),
        num_queries=settings.NUM_OBJECT_QUERIES,
        with_crowds=settings.CROWD_TARGETS,
    )
