"""Predictions read back from disk, of this package or of another program that writes COCO's panoptic format."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.evaluator import ImageEvaluator, completeness
from panoptic_plugin.evaluation.ground_truth import read_panoptic_png, read_pixels
from panoptic_plugin.evaluation.predictions import JSON_NAME, NO_CLASS, PANOPTIC, SEMANTIC
from panoptic_plugin.files import outside, read_json
from panoptic_plugin.structures import number_pixels

logger = logging.getLogger(__name__)

# Where the JSON lies in a folder that somebody names: of predictions, of an evaluation, of a run.
PLACES = (JSON_NAME, f"predictions/{JSON_NAME}", f"inference/predictions/{JSON_NAME}", "predictions.json")
SECONDS_BETWEEN_LINES = 10
NUM_THREADS = 2


class SavedPredictions:
    """The predictions of a JSON with its pictures.

    Args:
        path: the JSON, or the folder of it, of an evaluation or of a run.

    Attributes:
        info: what the JSON says of where they come from; {} where it says nothing.
        problem: a sentence about images that stand twice with different segments, or "".

    Raises:
        DatasetError: there is no JSON, or it is not of this format.
    """

    def __init__(self, path: str | Path):
        self.path = _json_file(Path(path))
        content = read_json(self.path, allow_list=True, what="predictions")
        annotations = content if isinstance(content, list) else content.get("annotations")
        if not isinstance(annotations, list):
            raise DatasetError(f"{self.path}: the list 'annotations' is missing; expected COCO's panoptic format")
        info = content.get("info") if isinstance(content, dict) else None
        self.info: dict[str, Any] = info if isinstance(info, dict) else {}
        self._annotations, self.conflicting = _by_image_id(self.path, annotations)
        self._root = _picture_folder(self.path, list(self._annotations.values()))
        self._semantic_root = self.path.parent / SEMANTIC

    @property
    def image_ids(self) -> list[str]:
        """As text, in the order of the JSON."""
        return list(self._annotations)

    @property
    def has_scores(self) -> bool:
        """Whether the things are scored; without, there is no AP."""
        if "scored" in self.info:  # an image may hold no thing
            return bool(self.info["scored"])
        return any("score" in one for annotation in self._annotations.values() for one in annotation["segments_info"])

    @property
    def has_classes(self) -> bool:
        """Whether each image has a picture of its classes, beside the panoptic one."""
        names = [one["file_name"] for one in self._annotations.values()]
        return self._semantic_root.is_dir() and all((self._semantic_root / name).is_file() for name in names)

    def output(
        self, image_id: str, contiguous_ids: Mapping[int, int], thing_ids: frozenset[int], *, with_classes: bool
    ) -> dict[str, Any]:
        """What a model would have put out.

        Args:
            image_id: as text.
            contiguous_ids: category id of the JSON -> contiguous id.
            thing_ids: contiguous ids of the things.
            with_classes: take the classes of the pixels from their own picture, not from the segments.

        Raises:
            DatasetError: a picture that is missing or damaged, or a category that is not one of the dataset.
        """
        annotation = self._annotations[image_id]
        name = annotation["file_name"]
        ids = read_panoptic_png(self._root / name, "prediction")
        segments = [self._segment(one, image_id, contiguous_ids) for one in annotation["segments_info"]]
        numbers = number_pixels(ids, [one["id"] for one in segments], dtype=np.int32)
        if with_classes:
            labels = read_pixels(self._semantic_root / name, "prediction").astype(np.int16)
            labels[labels == NO_CLASS] = -1
        else:
            labels = np.array([-1, *(one["category_id"] for one in segments)], dtype=np.int16)[numbers]
        return {
            "panoptic_seg": (torch.from_numpy(ids), segments),
            "sem_seg": torch.from_numpy(labels),
            "instances": _instances(numbers, segments, thing_ids),
        }

    def _segment(self, segment: Mapping[str, Any], image_id: str, contiguous_ids: Mapping[int, int]) -> dict[str, Any]:
        if segment["category_id"] not in contiguous_ids:
            raise DatasetError(
                f"{self.path}: image {image_id} has a segment of category_id {segment['category_id']!r}, which is none "
                f"of the dataset's: {', '.join(map(str, sorted(contiguous_ids)[:24]))}"
            )
        segment_id = int(segment["id"])
        category = contiguous_ids[segment["category_id"]]
        found = {"id": segment_id, "category_id": category, "saved_id": segment_id}
        return found | ({"score": float(segment["score"])} if segment.get("score") is not None else {})


def score_saved(
    evaluator: ImageEvaluator,
    predictions: SavedPredictions,
    contiguous_ids: Mapping[int, int],
    thing_ids: frozenset[int],
) -> dict[str, dict[str, float]]:
    """Score saved predictions; the results are those of the evaluator.

    Raises:
        DatasetError: images that are missing, stand there twice or are unknown, all named; files that cannot be used.
    """
    image_ids = evaluator.ground_truth.image_ids
    problem = completeness(image_ids, predictions.image_ids, predictions.conflicting)
    if problem:
        raise DatasetError(f"{predictions.path}: {problem}")
    with_classes = predictions.has_classes
    evaluator.reset()

    def read(image_id: str) -> dict[str, Any]:
        return predictions.output(image_id, contiguous_ids, thing_ids, with_classes=with_classes)

    said = time.monotonic()
    for done, (image_id, output) in enumerate(_ahead(read, image_ids), start=1):
        evaluator.process([{"image_id": image_id, "file_name": image_id}], [output])
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logger.info("Scored %d of %d images", done, len(image_ids))
    return evaluator.evaluate() or {}


def _ahead(read: Any, image_ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(image id, read(image id)), the next ones read meanwhile in threads: decoding lets other threads run."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        pending = [threads.submit(read, image_id) for image_id in image_ids[: 2 * NUM_THREADS]]
        for position, image_id in enumerate(image_ids):
            following = position + 2 * NUM_THREADS
            if following < len(image_ids):
                pending.append(threads.submit(read, image_ids[following]))
            yield image_id, pending.pop(0).result()


def _instances(numbers: np.ndarray, segments: Sequence[Mapping[str, Any]], thing_ids: frozenset[int]) -> Instances:
    """The scored things, in the order of the JSON."""
    found = [(n, one) for n, one in enumerate(segments, start=1) if one["category_id"] in thing_ids and "score" in one]
    shape = (int(numbers.shape[0]), int(numbers.shape[1]))
    instances = Instances(shape)
    masks = np.array([number for number, _ in found], dtype=np.int32)[:, None, None] == numbers
    instances.pred_masks = torch.from_numpy(masks.reshape(len(found), *shape))
    instances.pred_classes = torch.tensor([one["category_id"] for _, one in found], dtype=torch.int64)
    instances.scores = torch.tensor([one["score"] for _, one in found], dtype=torch.float64)
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    return instances


def _json_file(path: Path) -> Path:
    if not path.exists():
        raise DatasetError(f"predictions {path} do not exist; give a folder or a JSON in COCO's panoptic format")
    if not path.is_dir():
        return path
    for place in PLACES:
        if (path / place).is_file():
            return path / place
    alone = sorted(path.glob("*.json"))
    if len(alone) == 1:
        return alone[0]
    raise DatasetError(
        f"{path} holds none of {', '.join(PLACES)}"
        + (f" but several others ({', '.join(one.name for one in alone[:5])}); name the JSON itself" if alone else "")
        + ". Saved predictions come from an evaluation with TEST.SAVE_PREDICTIONS True that ran to its end"
    )


def _by_image_id(path: Path, annotations: Sequence[Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The annotations by image id, and the ids that stand there twice, differently."""
    by_id: dict[str, dict[str, Any]] = {}
    conflicting = set()
    for index, annotation in enumerate(annotations):
        _check(annotation, f"{path}: annotations[{index}]")
        image_id = str(annotation["image_id"])
        if by_id.setdefault(image_id, annotation) != annotation:
            conflicting.add(image_id)
    return by_id, sorted(conflicting)


def _check(annotation: Any, where: str) -> None:
    for key in ("image_id", "file_name", "segments_info"):
        if not isinstance(annotation, Mapping) or key not in annotation:
            raise DatasetError(f"{where}: the key {key!r} is missing; expected COCO's panoptic format")
    name = annotation["file_name"]
    if not isinstance(name, str) or outside(name):
        raise DatasetError(f"{where}: file_name is {name!r}, expected a path inside the folder of the pictures")
    if not isinstance(annotation["segments_info"], list):
        raise DatasetError(f"{where}: segments_info is {annotation['segments_info']!r}, expected a list")
    for segment in annotation["segments_info"]:
        if not isinstance(segment, Mapping) or not {"id", "category_id"} <= segment.keys():
            raise DatasetError(f"{where}: a segment is {segment!r}, expected an object with id and category_id")
        if isinstance(segment["id"], bool) or not isinstance(segment["id"], int) or not 0 < segment["id"] < 1 << 24:
            raise DatasetError(f"{where}: a segment has the id {segment['id']!r}, expected 1 to {(1 << 24) - 1}")


def _picture_folder(path: Path, annotations: Sequence[Mapping[str, Any]]) -> Path:
    """Beside the JSON: ``panoptic``, a folder of the JSON's name, ``predictions``, or where the JSON itself lies."""
    folders = [path.parent / name for name in (PANOPTIC, path.stem, "predictions")] + [path.parent]
    names = [one["file_name"] for one in annotations[:1]]
    for folder in folders:
        if folder.is_dir() and all((folder / name).is_file() for name in names):
            return folder
    raise DatasetError(
        f"{path}: its picture {names[0]} is in none of {', '.join(str(folder) for folder in folders)}; put the "
        "pictures into one of them"
    )
