"""The scores of a run's single images: read from what the evaluation wrote, or counted from saved predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_plugin.errors import DatasetError, UserError, one_line
from panoptic_plugin.evaluation import pq
from panoptic_plugin.reports.run_images import Pictures
from panoptic_plugin.reports.run_matching import Match, Segment, count_segments


@dataclass
class ImageScore:
    """One image's part in the scores.

    Attributes:
        image_id: as text.
        pq, sq, rq: mean over the classes of the image, percent.
        segments: see :meth:`Match.segments`.
        missed, false: numbers of true segments without a match and of predicted ones.
        void: percent of the labelled pixels for which nothing was predicted.
    """

    image_id: str
    pq: float
    sq: float
    rq: float
    segments: list[Segment]
    missed: int
    false: int
    void: float


@dataclass
class Analysis:
    """All images of a run.

    Attributes:
        class_names: by contiguous category.
        thing_ids: contiguous categories of the things.
        scores: one an image, in the order of the ground truth; images without any class are left out.
        confusion: int64 (C + 1, C + 1) pixels by true and predicted class, last "void" and "none"; None if unknown.
        source: what it is a confusion of, "panoptic" or "semantic" predictions.
        pictures: what pictures are drawn from; None where predictions or truth are not there.
        skipped: sentences about images that could not be read.
    """

    class_names: list[str]
    thing_ids: frozenset[int]
    scores: list[ImageScore]
    confusion: np.ndarray | None = None
    source: str = "panoptic"
    pictures: Pictures | None = None
    skipped: list[str] = field(default_factory=list)

    def counts(self) -> dict[int, pq.Counts]:
        """PQ's counts of the dataset by category."""
        return pq.accumulate(count_segments(score.segments) for score in self.scores)


def read_analysis(folder: Path, per_class: Sequence[Mapping[str, Any]]) -> Analysis:
    """What the evaluation wrote: ``per_image.jsonl`` and ``confusion.json``.

    Args:
        folder: of the results.
        per_class: of its ``metrics.json``; names and kinds of the classes.

    Raises:
        DatasetError: a file that is not there or cannot be read.
    """
    path = folder / "per_image.jsonl"
    if not path.is_file() or not per_class:
        raise DatasetError(f"{path} is not there")
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        scores = [_from_record(record) for record in records if record["pq"] is not None]
        confusion, source = _read_confusion(folder / "confusion.json", len(per_class))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} or confusion.json cannot be read: {one_line(error)}") from None
    things = frozenset(category for category, one in enumerate(per_class) if one.get("kind") == "thing")
    return Analysis([str(one["class"]) for one in per_class], things, scores, confusion, source)


def _from_record(record: Mapping[str, Any]) -> ImageScore:
    segments = [
        (str(one["kind"]), int(one["category"]), int(one["area"]), float(one["iou"] or 0.0))
        for one in record["segments"]
        if one["kind"] in ("match", "missed", "false")
    ]
    kinds = [segment[0] for segment in segments]
    quality = [float(record[name]) for name in ("pq", "sq", "rq")]
    void = float(record.get("void") or 0.0)
    return ImageScore(
        str(record["image_id"]), quality[0], quality[1], quality[2], segments,
        kinds.count("missed"), kinds.count("false"), void,
    )  # fmt: skip


def _read_confusion(path: Path, num_classes: int) -> tuple[np.ndarray | None, str]:
    if not path.is_file():
        return None, ""
    content = json.loads(path.read_text(encoding="utf-8"))
    pixels = np.asarray(content["pixels"], dtype=np.int64)
    if pixels.shape != (num_classes + 1, num_classes + 1):
        raise ValueError(f"{path} has the shape {pixels.shape}, expected {num_classes + 1} rows and columns")
    return pixels, str(content.get("source", "panoptic"))


def analyse(pictures: Pictures) -> Analysis:
    """Match all images that have a prediction: what an evaluation without ``per_image.jsonl`` needs."""
    dataset, num_classes = pictures.dataset, len(pictures.dataset.class_names)
    pixels = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    analysis = Analysis(dataset.class_names, dataset.thing_ids, [], pixels, pictures=pictures)
    for image_id in dataset.truth.image_ids:
        if image_id not in pictures.predictions:
            analysis.skipped.append(f"image {image_id} has no prediction")
            continue
        try:
            match = pictures.match(image_id)
        except (UserError, ValueError, KeyError) as error:
            analysis.skipped.append(f"image {image_id}: {one_line(error)}")
            continue
        score = _score(image_id, match)
        if score is not None:
            analysis.scores.append(score)
        pixels += match.confusion(num_classes)
    return analysis


def _score(image_id: str, match: Match) -> ImageScore | None:
    segments = match.segments()
    counts = count_segments(segments)
    mean = pq.average(counts, counts)
    if mean is None:
        return None
    labelled, empty = int(match.shared[1:].sum()), int(match.shared[1:, 0].sum())
    void = 100 * empty / max(labelled, 1)
    return ImageScore(
        image_id, 100 * mean.pq, 100 * mean.sq, 100 * mean.rq, segments, len(match.missed), len(match.false), void
    )


def best_and_worst(scores: Sequence[ImageScore], number: int) -> tuple[list[ImageScore], list[ImageScore]]:
    """Up to ``number`` images of the highest and of the lowest PQ, none in both; the extreme ones first."""
    ranked = sorted(scores, key=lambda score: (-score.pq, score.image_id))
    best = ranked[: min(number, (len(ranked) + 1) // 2)]
    worst = ranked[::-1][: min(number, len(ranked) - len(best))]
    return best, worst
