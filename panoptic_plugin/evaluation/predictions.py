"""Predictions on disk, in COCO's panoptic format with class maps beside it: written before anything is scored."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.utils import comm

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth
from panoptic_plugin.evaluation.panoptic import predicted_ids, predicted_segments
from panoptic_plugin.evaluation.per_image import extents, spans
from panoptic_plugin.evaluation.runs import shared_runs
from panoptic_plugin.evaluation.semantic import predicted_labels
from panoptic_plugin.files import replace_file
from panoptic_plugin.structures import number_pixels

JSON_NAME, PANOPTIC, SEMANTIC = "panoptic.json", "panoptic", "semantic"
NO_CLASS = 255  # in the pictures of classes
NUM_THREADS = 2
MAX_WAITING = 8  # pictures in memory that wait to be written

Saved = tuple[str, str]  # the annotation as JSON, and a digest of the pictures


def with_labels(output: Mapping[str, Any]) -> Mapping[str, Any]:
    """The output with classes (H, W) in the place of logits (C, H, W): they are made once for all that need them."""
    semantic = output.get("sem_seg")
    if semantic is None or semantic.ndim == 2:
        return output
    return {**output, "sem_seg": torch.from_numpy(predicted_labels(output, 1))}


class PredictionWriter:
    """Writes the predictions of an evaluation, each picture as soon as it is there, in threads of its own.

    The JSON comes last and is taken away first: where it is, its pictures are whole.

    Args:
        folder: receives ``panoptic.json``, ``panoptic/*.png`` and ``semantic/*.png``.
        ground_truth: gives ids, images and categories of the JSON.
        dataset_ids: contiguous category id -> id in the JSON.
        label_divisor: of the predicted ids, see :func:`~panoptic_plugin.evaluation.panoptic.predicted_segments`.
        info: what the JSON says of where the predictions come from; called when it is written.
    """

    def __init__(
        self,
        *,
        folder: Path,
        ground_truth: PanopticGroundTruth,
        dataset_ids: Mapping[int, int],
        label_divisor: int,
        info: Callable[[], Mapping[str, Any]] = dict,
    ):
        self._folder = folder
        self._truth = ground_truth
        self._dataset_ids = dict(dataset_ids)
        self._label_divisor = label_divisor
        self._info = info
        self._names = file_names(ground_truth.image_ids)
        self._threads: ThreadPoolExecutor | None = None
        self._pending: list[Future[Saved]] = []

    def start(self) -> None:
        """Forget what was saved before, here and on disk."""
        self.close()
        if comm.is_main_process():
            (self._folder / JSON_NAME).unlink(missing_ok=True)

    def save(self, image_id: str, output: Mapping[str, Any]) -> None:
        """Begin to write one prediction."""
        if self._threads is None:
            for name in (PANOPTIC, SEMANTIC):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="predictions")
        if len(self._pending) >= MAX_WAITING:
            self._pending[-MAX_WAITING].exception()  # waits, so that memory stays bounded
        self._pending.append(self._threads.submit(self._save, image_id, output))

    def collect(self) -> list[Saved]:
        """Wait for all pictures; one entry a call of :meth:`save`, in that order.

        Raises:
            DatasetError: one cannot be written.
        """
        saved = [future.result() for future in self._pending]
        self.close()
        return saved

    def close(self) -> None:
        """Stop writing."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads, self._pending = None, []

    def finish(self, saved: Sequence[Saved]) -> None:
        """Write the JSON of all images; on the main process."""
        content = {
            "info": dict(self._info()),
            "images": self._truth.images,
            "categories": self._truth.categories,
            "annotations": [json.loads(annotation) for annotation, _ in saved],
        }
        self._write(self._folder / JSON_NAME, json.dumps(content).encode(), sync=True)

    def _save(self, image_id: str, output: Mapping[str, Any]) -> Saved:
        name = self._names[image_id]
        ids = predicted_ids(output)
        (values,), lengths = shared_runs(ids)
        segments = predicted_segments(output, values, self._label_divisor, image_id)
        numbers = np.repeat(number_pixels(values, [one["id"] for one in segments], dtype=np.int32), lengths)
        pictures = [(PANOPTIC, _png(_colours(numbers.reshape(ids.shape))))]
        if output.get("sem_seg") is not None:
            pictures.append((SEMANTIC, _png(_class_picture(predicted_labels(output, self._label_divisor)))))
        for folder, picture in pictures:
            self._write(self._folder / folder / name, picture)
        areas = extents(values, lengths, spans(lengths, ids.shape[1]), [one["id"] for one in segments])
        annotation = {
            "image_id": self._truth.original_id(image_id),
            "file_name": name,
            "segments_info": self._listed(segments, areas, scores(output, ids, segments)),
        }
        digest = hashlib.sha256(b"".join(picture for _, picture in pictures)).hexdigest()
        return json.dumps(annotation), digest

    def _listed(
        self, segments: Sequence[Mapping[str, Any]], areas: Sequence[tuple[int, Any]], scores: Mapping[int, float]
    ) -> list[dict[str, Any]]:
        listed = []
        for number, (segment, (area, box)) in enumerate(zip(segments, areas, strict=True), start=1):
            category = self._dataset_ids.get(segment["category_id"])
            if category is None:
                continue  # the metrics refuse it, with an explanation
            entry = {"id": number, "category_id": category, "area": area, "bbox": box, "iscrowd": 0}
            listed.append(entry | ({"score": scores[segment["id"]]} if segment["id"] in scores else {}))
        return listed

    def _write(self, path: Path, content: bytes, *, sync: bool = False) -> None:
        try:
            replace_file(path, content, sync=sync)
        except OSError as error:
            raise DatasetError(
                f"prediction {path} cannot be written ({error.strerror}); free some space or evaluate with "
                "TEST.SAVE_PREDICTIONS False"
            ) from None


def scores(output: Mapping[str, Any], ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Segment id -> score of the things, from ``segments_info``, else from those ``instances`` that are segments."""
    listed = output.get("segments_info")
    if listed is not None:
        return {int(one["id"]): float(one["score"]) for one in listed if one.get("score") is not None}
    instances = output.get("instances")
    found: dict[int, float] = {}
    if instances is None or not len(instances) or instances.pred_masks.shape[1:] != ids.shape:
        return found
    categories = {one["id"]: one["category_id"] for one in segments}
    masks = instances.pred_masks.cpu().numpy().reshape(len(instances), -1)
    for mask, score, category in zip(masks, instances.scores.tolist(), instances.pred_classes.tolist(), strict=True):
        segment_id = int(ids.reshape(-1)[mask.argmax()])
        if mask.any() and categories.get(segment_id) == category:
            found.setdefault(segment_id, float(score))
    return found


def _colours(numbers: np.ndarray) -> np.ndarray:
    """Numbers below 2**24 (H, W) to uint8 (H, W, 3) in OpenCV's order, of which red is the lowest byte."""
    low_bytes = np.ascontiguousarray(numbers, dtype="<i4").view(np.uint8).reshape(*numbers.shape, 4)
    return cv2.cvtColor(low_bytes, cv2.COLOR_RGBA2BGR)


def _class_picture(labels: np.ndarray) -> np.ndarray:
    """uint8 (H, W), :data:`NO_CLASS` where there is none."""
    if labels.dtype == np.uint8:
        return labels
    return np.where((labels < 0) | (labels > NO_CLASS), NO_CLASS, labels).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def file_names(image_ids: Sequence[str]) -> dict[str, str]:
    """A file name an image id: no folder can be left through it, and no two images share one."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for position, image_id in enumerate(image_ids):
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", image_id).lstrip(".") or "image"
        name = f"{stem}.png" if f"{stem}.png" not in taken else f"{stem}_{position}.png"
        taken.add(name)
        names[image_id] = name
    return names
