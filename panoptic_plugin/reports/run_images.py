"""A run's saved predictions beside the ground truth, image by image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.errors import DatasetError, UserError
from panoptic_plugin.evaluation import pq
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth, read_panoptic_png
from panoptic_plugin.evaluation.semantic import confusion
from panoptic_plugin.reports.run_matching import Match, count_segments, match_image

# Where predictions lie: (JSON, folder of its PNGs), below the folder of the results.
PREDICTIONS = (("predictions/panoptic.json", "predictions/panoptic"), ("predictions/panoptic.json", "predictions"),
               ("predictions.json", "predictions"))  # fmt: skip


@dataclass
class ImageScore:
    """One image's part in the scores.

    Attributes:
        image_id: as text.
        pq, sq, rq: mean over the classes of the image, percent.
        segments: see :meth:`Match.segments`.
        missed, false: numbers of true objects without and predicted ones too many (stuff counts as one a class).
        void: percent of the labelled pixels for which nothing was predicted.
    """

    image_id: str
    pq: float
    sq: float
    rq: float
    segments: list[tuple[str, int, int, float]]
    missed: int
    false: int
    void: float


@dataclass
class Dataset:
    """What is needed of a registered dataset: truth, images and names."""

    name: str
    truth: PanopticGroundTruth
    metadata: Any
    contiguous_ids: dict[int, int]
    thing_ids: frozenset[int]
    _files: dict[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.metadata.stuff_classes]

    def image_file(self, image_id: str) -> str:
        """Path of an image."""
        if not self._files:
            self._files.update((str(one["image_id"]), one["file_name"]) for one in DatasetCatalog.get(self.name))
        return self._files[image_id]


def open_dataset(name: str | None) -> Dataset:
    """The ground truth of a registered dataset.

    Raises:
        DatasetError: unknown, not panoptic, or not on this machine.
    """
    if name is None or name not in DatasetCatalog.list():
        raise DatasetError(f"the dataset {name!r} is not registered here")
    metadata = MetadataCatalog.get(name)
    things = metadata.get("thing_dataset_id_to_contiguous_id", None)
    if not metadata.get("panoptic_json", None) or things is None:
        raise DatasetError(f"the dataset {name} has no panoptic ground truth")
    contiguous = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
    truth = PanopticGroundTruth(
        panoptic_json=metadata.panoptic_json,
        panoptic_root=metadata.panoptic_root,
        contiguous_ids=contiguous,
        ignore_label=metadata.get("ignore_label", 255),
    )
    return Dataset(name, truth, metadata, contiguous, frozenset(things.values()))


class Predictions:
    """A run's predictions in COCO's panoptic format.

    Args:
        folder: of the results.
        contiguous_ids: category id of the JSON -> contiguous id.

    Raises:
        DatasetError: there are none, or they cannot be read.
    """

    def __init__(self, folder: Path, contiguous_ids: Mapping[int, int]):
        places = [(folder / file, folder / root) for file, root in PREDICTIONS if (folder / file).is_file()]
        places = [place for place in places if place[1].is_dir()]
        if not places:
            raise DatasetError(
                f"{folder} holds no predictions; evaluate again with TEST.SAVE_PREDICTIONS True to see images"
            )
        file, self._root = places[0]
        try:
            annotations = json.loads(file.read_text(encoding="utf-8"))["annotations"]
            self._annotations = {str(one["image_id"]): one for one in annotations}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
        self._contiguous_ids = contiguous_ids

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._annotations

    def load(self, image_id: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Ids (H, W) and segments (id, category_id contiguous)."""
        annotation = self._annotations[image_id]
        segments = [
            {"id": int(one["id"]), "category_id": self._contiguous_ids[one["category_id"]]}
            for one in annotation["segments_info"]
        ]
        return read_panoptic_png(self._root / annotation["file_name"]), segments


@dataclass
class Analysis:
    """All images of a run.

    Attributes:
        dataset, predictions: where they come from.
        scores: one an image, in the order of the ground truth.
        confusion: int64 (C + 1, C + 1) pixels by (true, predicted) class of the panoptic maps.
        skipped: sentences about images that could not be read.
    """

    dataset: Dataset
    predictions: Predictions
    scores: list[ImageScore]
    confusion: np.ndarray
    skipped: list[str] = field(default_factory=list)

    def counts(self) -> dict[int, pq.Counts]:
        """PQ's counts of the dataset by category."""
        return pq.accumulate(count_segments(score.segments) for score in self.scores)

    def match(self, image_id: str) -> Match:
        """Read one image again."""
        return match_image(self.dataset.truth.load(image_id), *self.predictions.load(image_id))


def analyse(dataset: Dataset, predictions: Predictions) -> Analysis:
    """Match all images that have a prediction."""
    num_classes = len(dataset.class_names)
    analysis = Analysis(dataset, predictions, [], np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64))
    for image_id, match in _matches(dataset, predictions, analysis.skipped):
        analysis.scores.append(_score(image_id, match))
        analysis.confusion += confusion(_categories(match), match.truth.semantic, num_classes)
    return analysis


def _matches(dataset: Dataset, predictions: Predictions, skipped: list[str]) -> Iterator[tuple[str, Match]]:
    for image_id in dataset.truth.image_ids:
        if image_id not in predictions:
            skipped.append(f"image {image_id} has no prediction")
            continue
        try:
            yield image_id, match_image(dataset.truth.load(image_id), *predictions.load(image_id))
        except (UserError, ValueError, KeyError) as error:
            skipped.append(f"image {image_id}: {' '.join(str(error).split())}")


def _categories(match: Match) -> np.ndarray:
    table = np.array([-1, *(one["category_id"] for one in match.predicted)])
    return table[match.numbers]


def _score(image_id: str, match: Match) -> ImageScore:
    segments = match.segments()
    counts = count_segments(segments)
    mean = pq.average(counts, counts)
    labelled = match.truth.numbers > 0
    empty = int((labelled & (match.numbers == 0)).sum())
    return ImageScore(
        image_id,
        *(100 * value for value in (mean[:3] if mean else (0.0, 0.0, 0.0))),
        segments,
        len(match.missed),
        len(match.false),
        100 * empty / max(int(labelled.sum()), 1),
    )


def best_and_worst(scores: Sequence[ImageScore], number: int) -> tuple[list[ImageScore], list[ImageScore]]:
    """Up to ``number`` images of the highest and of the lowest PQ, none in both; the extreme ones first."""
    ranked = sorted(scores, key=lambda score: (-score.pq, score.image_id))
    best = ranked[: min(number, (len(ranked) + 1) // 2)]
    worst = ranked[::-1][: min(number, len(ranked) - len(best))]
    return best, worst
