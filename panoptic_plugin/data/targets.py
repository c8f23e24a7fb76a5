"""Training targets, from a panoptic label map to what the losses compare with.

Shapes: H, W are the label's height and width. All targets have that size; coordinates are (y, x) in pixels.
A label is taken apart into runs once, see :mod:`panoptic_plugin.data.label_runs`: the cost grows with the image and
hardly with the number of segments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from panoptic_plugin.data.label_runs import LabelRuns, find_runs
from panoptic_plugin.registry import TARGET_GENERATOR_REGISTRY

Segments = Sequence[dict[str, Any]]

# Values of MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT.MODE for which the loss has to know which pixels are one object.
MODES_WITH_INSTANCES = ("instance_ce", "hist_ce")


def number_segments(segments_info: Segments) -> dict[int, int]:
    """Id of each segment -> its number 1, 2, ...; an id that is listed twice has one number."""
    distinct = dict.fromkeys(int(segment["id"]) for segment in segments_info)
    return {segment_id: number for number, segment_id in enumerate(distinct, start=1)}


def semantic_target(
    runs: LabelRuns,
    numbers: dict[int, int],
    segments_info: Segments,
    *,
    ignore_label: int,
    ignore_crowd: bool = False,
) -> torch.Tensor:
    """Contiguous category of each pixel, int64 (H, W); ``ignore_label`` outside all segments (and in crowds)."""
    category = np.full(len(numbers) + 1, ignore_label, dtype=np.int64)
    for segment in segments_info:
        if not (ignore_crowd and segment["iscrowd"]):
            category[numbers[segment["id"]]] = segment["category_id"]
    return torch.from_numpy(runs.spread(category[runs.numbers]))


class SemanticTargets:
    """Semantic segmentation alone: ``{"sem_seg": int64 (H, W)}``."""

    def __init__(self, *, ignore_label: int, ignore_crowd_in_semantic: bool = False):
        self.ignore_label = ignore_label
        self.ignore_crowd_in_semantic = ignore_crowd_in_semantic

    def __call__(self, panoptic_ids: np.ndarray, segments_info: Segments) -> dict[str, Any]:
        numbers = number_segments(segments_info)
        semantic = semantic_target(
            find_runs(panoptic_ids, list(numbers)),
            numbers,
            segments_info,
            ignore_label=self.ignore_label,
            ignore_crowd=self.ignore_crowd_in_semantic,
        )
        return {"sem_seg": semantic}


class PanopticDeepLabTargets:
    """Targets of Panoptic-DeepLab (https://arxiv.org/abs/1911.10194, section 3).

    The seven outputs equal those of Detectron2's ``PanopticDeepLabTargetGenerator`` bit by bit, with one difference:
    a crowd group is no object, so it gets no center, and no tail of its Gaussian reaches its neighbours.

    Args:
        ignore_label: the semantic label of pixels without a segment.
        thing_ids: contiguous ids of the thing categories.
        sigma: standard deviation of a center's Gaussian, in pixels.
        ignore_stuff_in_offset: the offset loss sees thing pixels only.
        small_instance_area: instances of fewer pixels are small.
        small_instance_weight: weight of small instances in the semantic loss (cut to an integer from 0 to 255).
        ignore_crowd_in_semantic: crowd groups get the ignore label.
        with_instance_ids: make the target ``instance_ids`` too.
    """

    def __init__(
        self,
        *,
        ignore_label: int,
        thing_ids: Collection[int],
        sigma: int = 8,
        ignore_stuff_in_offset: bool = False,
        small_instance_area: int = 0,
        small_instance_weight: int = 1,
        ignore_crowd_in_semantic: bool = False,
        with_instance_ids: bool = False,
    ):
        self.ignore_label = ignore_label
        self.thing_ids = frozenset(thing_ids)
        self.sigma = sigma
        self.ignore_stuff_in_offset = ignore_stuff_in_offset
        self.small_instance_area = small_instance_area
        self.small_instance_weight = small_instance_weight
        self.ignore_crowd_in_semantic = ignore_crowd_in_semantic
        self.with_instance_ids = with_instance_ids
        self._gaussian = _gaussian_patch(sigma)

    def __call__(self, panoptic_ids: np.ndarray, segments_info: Segments) -> dict[str, Any]:
        """Make the targets of one image.

        Args:
            panoptic_ids: int (H, W), ids of the dataset's PNG.
            segments_info: dicts with ``id``, ``category_id`` (contiguous) and ``iscrowd``.

        Returns:
            sem_seg int64 (H, W); center float32 (H, W), 1 at each center; center_points, a list of [y, x];
            offset float32 (2, H, W), from a pixel to its center, y first; sem_seg_weights float32 (H, W);
            center_weights and offset_weights float32 (1, H, W), 0 where the loss looks away; with
            ``with_instance_ids`` also instance_ids int64 (H, W), 1 on the object of the first center point, 2 on that
            of the second, ..., and 0 on stuff, crowds and pixels without a segment.
        """
        numbers = number_segments(segments_info)
        runs = find_runs(panoptic_ids, list(numbers))
        areas, centers_y, centers_x = runs.areas(), *runs.centers_of_mass()
        things = [one for one in segments_info if one["category_id"] in self.thing_ids and areas[numbers[one["id"]]]]
        objects = [numbers[one["id"]] for one in things if not one["iscrowd"]]
        center_points = [[centers_y[number], centers_x[number]] for number in objects]
        small = [n for n in (numbers[one["id"]] for one in things) if areas[n] < self.small_instance_area]
        labelled = [one for one in segments_info if not one["iscrowd"]]
        with_offset = (s for s in labelled if not self.ignore_stuff_in_offset or s["category_id"] in self.thing_ids)
        targets = {
            "sem_seg": semantic_target(
                runs,
                numbers,
                segments_info,
                ignore_label=self.ignore_label,
                ignore_crowd=self.ignore_crowd_in_semantic,
            ),
            "center": self._heatmap(runs.shape, center_points),
            "center_points": center_points,
            "offset": _offset(runs, objects, centers_y, centers_x),
            "sem_seg_weights": _plane(runs, small, np.uint8(self.small_instance_weight), elsewhere=1),
            "center_weights": _plane(runs, (numbers[one["id"]] for one in labelled), 1)[None],
            "offset_weights": _plane(runs, (numbers[one["id"]] for one in with_offset), 1)[None],
        }
        if self.with_instance_ids:
            targets["instance_ids"] = _plane(runs, objects, range(1, len(objects) + 1), dtype=np.int64)
        return targets

    def _heatmap(self, shape: tuple[int, int], center_points: Iterable[Sequence[np.float64]]) -> torch.Tensor:
        """float32 (H, W): a Gaussian on each center; where two overlap, the higher value stays."""
        center = np.zeros(shape, dtype=np.float32)
        reach = 3 * self.sigma + 1
        for point in center_points:
            y, x = (round(coordinate) for coordinate in point)
            top, left = max(0, y - reach), max(0, x - reach)
            region = center[top : y + reach + 1, left : x + reach + 1]
            patch = self._gaussian[top - y + reach :, left - x + reach :][: region.shape[0], : region.shape[1]]
            np.maximum(region, patch, out=region)
        return torch.from_numpy(center)


def _gaussian_patch(sigma: int) -> np.ndarray:
    """float32 (6 sigma + 3, 6 sigma + 3), 1 in the middle."""
    # In double precision first, as Detectron2 does: the rounding to float32 comes last in both.
    distance = np.arange(6 * sigma + 3, dtype=float) - (3 * sigma + 1)
    squared = distance[None, :] ** 2 + distance[:, None] ** 2
    return np.exp(-squared / (2 * sigma**2)).astype(np.float32)


def _offset(runs: LabelRuns, objects: Sequence[int], centers_y: np.ndarray, centers_x: np.ndarray) -> torch.Tensor:
    """float32 (2, H, W): way from each pixel of the objects (numbers) to its center, 0 elsewhere.

    Args:
        centers_y, centers_x: float64, by number.
    """
    # A float64 number minus a float32 array is computed in single precision by NumPy 1 and in double by NumPy 2, and
    # Detectron2 subtracts these very types. Doing it in the same type gives the same bits under either.
    precision = (np.float64(0) - np.zeros(1, dtype=np.float32)).dtype
    is_object = np.isin(runs.numbers, objects)
    inside = runs.spread(is_object)
    numbers, lengths = runs.numbers[is_object], runs.lengths[is_object]
    columns = np.broadcast_to(np.arange(runs.shape[1], dtype=precision), runs.shape)
    y_way = centers_y[numbers].astype(precision) - runs.y[is_object].astype(precision)
    offset = np.zeros((2, *runs.shape), dtype=np.float32)
    offset[0][inside] = np.repeat(y_way, lengths)
    offset[1][inside] = np.repeat(centers_x[numbers].astype(precision), lengths) - columns[inside]
    return torch.from_numpy(offset)


def _plane(
    runs: LabelRuns, numbers: Iterable[int], values: Any, *, elsewhere: float = 0, dtype: Any = np.float32
) -> torch.Tensor:
    """(H, W) of ``dtype``: a value, or one for each of the numbers, on the pixels of these segments."""
    table = np.full(runs.num_segments + 1, elsewhere, dtype=dtype)
    table[list(numbers)] = values
    return torch.from_numpy(runs.spread(table[runs.numbers]))


@TARGET_GENERATOR_REGISTRY.register()
def panoptic_deeplab(cfg, metadata) -> PanopticDeepLabTargets:
    """``INPUT.TARGET_GENERATOR: panoptic_deeplab``."""
    return PanopticDeepLabTargets(
        ignore_label=metadata.ignore_label,
        thing_ids=metadata.thing_dataset_id_to_contiguous_id.values(),
        sigma=cfg.INPUT.GAUSSIAN_SIGMA,
        ignore_stuff_in_offset=cfg.INPUT.IGNORE_STUFF_IN_OFFSET,
        small_instance_area=cfg.INPUT.SMALL_INSTANCE_AREA,
        small_instance_weight=cfg.INPUT.SMALL_INSTANCE_WEIGHT,
        ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC,
        with_instance_ids=_loss_needs_instances(cfg),
    )


@TARGET_GENERATOR_REGISTRY.register()
def semantic(cfg, metadata) -> SemanticTargets:
    """``INPUT.TARGET_GENERATOR: semantic``."""
    return SemanticTargets(
        ignore_label=metadata.ignore_label, ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC
    )


def _loss_needs_instances(cfg) -> bool:
    weight = cfg.MODEL.get("PANOPTIC_DEEPLAB", {}).get("INSTANCE_WEIGHT", {})
    return weight.get("MODE", "") in MODES_WITH_INSTANCES
