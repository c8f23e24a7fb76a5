"""Panoptic quality of a dataset, and predictions in COCO's panoptic format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth, Truth
from panoptic_plugin.evaluation.report import replace_file
from panoptic_plugin.structures import ids_to_rgb, number_pixels

SPLITS = (("All", ""), ("Things", "_th"), ("Stuff", "_st"))


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

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[tuple[int, pq.Counts], ...]:
        ids, segments = predicted_segments(output, self._label_divisor, truth.image_id)
        unknown = sorted({segment["category_id"] for segment in segments} - set(self._categories))
        if unknown:
            raise DatasetError(
                f"the prediction for image {truth.image_id} holds category {unknown[0]}, "
                f"which is none of the dataset's {len(self._categories)}; compare NUM_CLASSES with the dataset"
            )
        check_size(truth, ids.shape)
        return tuple(pq.count_image(truth.numbers, truth.segments, ids, segments).items())

    def summarize(self, records: Sequence[tuple[tuple[int, pq.Counts], ...]]) -> dict[str, float]:
        self.counts = pq.accumulate(dict(record) for record in records)
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


def predicted_segments(
    output: Mapping[str, Any], label_divisor: int, image_id: str = ""
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Id map and segments of a model's output dict.

    Args:
        output: ``panoptic_seg`` is (ids, None) with ids ``category * label_divisor + instance`` and negative void,
            or (ids, segments) with the id and category_id of each segment, where 0 or a negative id is void.
        label_divisor: see above.
        image_id: for the error.

    Raises:
        DatasetError: a pixel's id belongs to no segment.
    """
    panoptic, segments = output["panoptic_seg"]
    ids = panoptic.detach().cpu().numpy() if isinstance(panoptic, torch.Tensor) else np.asarray(panoptic)
    present = np.flatnonzero(np.bincount((ids + 1).clip(min=0).ravel())[1:]).tolist()
    if segments is None:
        return ids, [{"id": one, "category_id": one // label_divisor} for one in present]
    listed = {int(segment["id"]) for segment in segments}
    unlisted = [one for one in present if one not in listed and one != 0]
    if unlisted:
        raise DatasetError(
            f"the prediction for image {image_id} has pixels of id {unlisted[0]}, which its segments do not list"
        )
    return ids, [{"id": int(one["id"]), "category_id": int(one["category_id"])} for one in segments]


def check_size(truth: Truth, predicted: Sequence[int]) -> None:
    """Raise DatasetError where a prediction, (height, width), is not as large as its truth."""
    if tuple(predicted) != truth.shape:
        raise DatasetError(
            f"image {truth.image_id}: the prediction is {predicted[0]}x{predicted[1]} (height x width), the ground "
            f"truth {truth.shape[0]}x{truth.shape[1]}; height and width of the loader's dict decide the former"
        )


class PanopticWriter:
    """Writes predictions in COCO's panoptic format, each as soon as it is there.

    Args:
        folder: receives ``predictions.json`` and the folder ``predictions`` of PNG files, named by image id.
        ground_truth: gives ids, images and categories of the JSON.
        dataset_ids: contiguous category id -> id in the JSON.
        label_divisor: see :func:`predicted_segments`.
    """

    task = "predictions"

    def __init__(
        self, *, folder: Path, ground_truth: PanopticGroundTruth, dataset_ids: Mapping[int, int], label_divisor: int
    ):
        self._folder = folder
        self._truth = ground_truth
        self._dataset_ids = dict(dataset_ids)
        self._label_divisor = label_divisor
        self._names = _file_names(ground_truth.image_ids)
        (folder / "predictions").mkdir(parents=True, exist_ok=True)

    def count(self, truth: Truth, output: Mapping[str, Any]) -> tuple[str, str]:
        ids, segments = predicted_segments(output, self._label_divisor, truth.image_id)
        listed = [segment["id"] for segment in segments]
        saved = number_pixels(ids, listed)  # 1, 2, ...; 0 is COCO's void
        name = self._names[truth.image_id]
        cv2.imwrite(str(self._folder / "predictions" / name), ids_to_rgb(saved)[..., ::-1])
        annotation = {
            "image_id": self._truth.original_id(truth.image_id),
            "file_name": name,
            "segments_info": [
                {"id": number, "category_id": self._dataset_ids[segment["category_id"]]}
                for number, segment in enumerate(segments, start=1)
            ],
        }
        return name, json.dumps(annotation)

    def summarize(self, records: Sequence[tuple[str, str]]) -> dict[str, float]:
        content = {
            "images": self._truth.images,
            "categories": self._truth.categories,
            "annotations": [json.loads(annotation) for _, annotation in records],
        }
        replace_file(self._folder / "predictions.json", json.dumps(content))
        return {}


def _file_names(image_ids: Sequence[str]) -> dict[str, str]:
    """A file name an image id: no folder can be left through it, and no two images share one."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for position, image_id in enumerate(image_ids):
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", image_id).lstrip(".") or "image"
        name = f"{stem}.png" if f"{stem}.png" not in taken else f"{stem}_{position}.png"
        taken.add(name)
        names[image_id] = name
    return names
