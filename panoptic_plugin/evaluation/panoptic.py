"""Panoptic quality of a dataset, with what became of each segment of each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.evaluation.per_image import SegmentOutcome, outcomes, unpredicted_share
from panoptic_plugin.evaluation.runs import shared_runs

SPLITS = (("All", ""), ("Things", "_th"), ("Stuff", "_st"))


class ImageQuality(NamedTuple):
    """One image's part in PQ.

    Attributes:
        counts: (category, counts) of the categories that occur.
        segments: every segment and what became of it.
        void: percent of the labelled pixels for which nothing was predicted.
        size: (height, width).
    """

    counts: tuple[tuple[int, pq.Counts], ...]
    segments: tuple[SegmentOutcome, ...] = ()
    void: float = 0.0
    size: tuple[int, int] = (0, 0)


class PanopticQuality:
    """PQ, SQ and RQ over all categories, things, stuff, and each category.

    Args:
        class_names: by contiguous category id.
        thing_ids: contiguous ids of the things.
        categories: contiguous ids that are averaged, in the order of the ground truth.
        label_divisor: predicted ids are ``category * label_divisor + instance``.
    """

    task = "panoptic_seg"

    def __init__(
        self, *, class_names: Sequence[str], thing_ids: frozenset[int], categories: Sequence[int], label_divisor: int
    ):
        self._class_names = list(class_names)
        self._thing_ids = thing_ids
        self._categories = list(categories)
        self._label_divisor = label_divisor
        self.counts: dict[int, pq.Counts] = {}

    def count(self, truth: Truth, output: Mapping[str, Any]) -> ImageQuality:
        ids = predicted_ids(output)
        check_size(truth, ids.shape)
        runs = shared_runs(truth.numbers, ids)
        segments = predicted_segments(output, runs.values[1], self._label_divisor, truth.image_id)
        unknown = sorted({segment["category_id"] for segment in segments} - set(self._categories))
        if unknown:
            raise DatasetError(
                f"the prediction for image {truth.image_id} holds category {unknown[0]}, "
                f"which is none of the dataset's {len(self._categories)}; compare NUM_CLASSES with the dataset"
            )
        matching = pq.match_runs(runs, truth.segments, segments)
        counts = tuple(matching.counts(truth.segments, segments).items())
        found = outcomes(matching, runs, truth.segments, segments, truth.shape[1])
        return ImageQuality(counts, found, unpredicted_share(runs, segments), truth.shape)

    def summarize(self, records: Sequence[ImageQuality]) -> dict[str, float]:
        self.counts = pq.accumulate(dict(record.counts) for record in records)
        results: dict[str, float] = {}
        for split, suffix in SPLITS:
            mean = pq.average(self.counts, self.members(split))
            for name in ("PQ", "SQ", "RQ"):
                results[name + suffix] = 100 * getattr(mean, name.lower()) if mean else float("nan")
        for category in self._categories:
            mean = pq.average(self.counts, [category])
            if mean:
                results[f"PQ-{self._class_names[category]}"] = 100 * mean.pq
        return results

    def num_categories(self) -> dict[str, int]:
        """How many categories the averages of "All", "Things" and "Stuff" took in."""
        means = {split: pq.average(self.counts, self.members(split)) for split, _ in SPLITS}
        return {split: mean.num if mean else 0 for split, mean in means.items()}

    def members(self, split: str) -> list[int]:
        """The categories of "All", "Things" or "Stuff"."""
        if split == "All":
            return self._categories
        return [category for category in self._categories if (category in self._thing_ids) == (split == "Things")]


def predicted_ids(output: Mapping[str, Any]) -> np.ndarray:
    """The id map (H, W) of a model's output dict, as it is."""
    panoptic = output["panoptic_seg"][0]
    return panoptic.detach().cpu().numpy() if isinstance(panoptic, torch.Tensor) else np.asarray(panoptic)


def predicted_segments(
    output: Mapping[str, Any], values: np.ndarray, label_divisor: int, image_id: str = ""
) -> list[dict[str, Any]]:
    """The segments of a model's output dict.

    Args:
        output: ``panoptic_seg`` is (ids, None) with ids ``category * label_divisor + instance`` and negative void,
            or (ids, segments) with the id and category_id of each segment, where 0 or a negative id is void.
        values: integers (R,) among which is every id of the map.
        label_divisor: see above.
        image_id: for the error.

    Returns:
        Dicts with id, category_id, and saved_id: the id in a saved picture; 1, 2, ... unless ``output`` says it. In
        the order of ``output["segments_info"]``, where there is such a list, else of the ids.

    Raises:
        DatasetError: a pixel's id belongs to no segment.
    """
    segments = output["panoptic_seg"][1]
    present = np.unique(values).tolist()
    if segments is None:
        rank = {int(one["id"]): number for number, one in enumerate(output.get("segments_info") or ())}
        order = sorted((one for one in present if one >= 0), key=lambda one: (rank.get(one, len(rank)), one))
        found: list[dict[str, Any]] = [{"id": one, "category_id": one // label_divisor} for one in order]
    else:
        listed = {int(segment["id"]) for segment in segments}
        unlisted = [one for one in present if one > 0 and one not in listed]
        if unlisted:
            raise DatasetError(
                f"the prediction for image {image_id} has pixels of id {unlisted[0]}, which its segments do not list"
            )
        found = [dict(one, id=int(one["id"]), category_id=int(one["category_id"])) for one in segments]
    return [{"saved_id": number, **segment} for number, segment in enumerate(found, start=1)]


def check_size(truth: Truth, predicted: Sequence[int]) -> None:
    """Raise DatasetError where a prediction, (height, width), is not as large as its truth."""
    if tuple(predicted) != truth.shape:
        raise DatasetError(
            f"image {truth.image_id}: the prediction is {predicted[0]}x{predicted[1]} (height x width), the ground "
            f"truth {truth.shape[0]}x{truth.shape[1]}; height and width of the loader's dict decide the former"
        )


def class_qualities(counts: Mapping[int, pq.Counts], categories: Iterable[int]) -> dict[int, dict[str, Any]]:
    """category -> PQ, SQ, RQ in percent and TP, FP, FN, for those that occur."""
    table = {}
    for category in categories:
        quality = pq.average(counts, [category])
        if quality:
            one = counts[category]
            table[category] = {
                **{name: 100 * getattr(quality, name.lower()) for name in ("PQ", "SQ", "RQ")},
                **{"TP": len(one.ious), "FP": one.fp, "FN": one.fn},
            }
    return table
