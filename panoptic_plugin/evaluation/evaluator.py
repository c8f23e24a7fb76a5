"""Every image exactly once: the bridge from metrics to Detectron2's evaluators, on one process or many."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from panoptic_plugin.errors import DatasetError, UserError
from panoptic_plugin.evaluation.ground_truth import GroundTruth, Truth
from panoptic_plugin.evaluation.predictions import PredictionWriter, with_labels

logger = logging.getLogger(__name__)

Record = Any
Results = dict[str, float]
MAX_NAMED = 50


class Metric(Protocol):
    """One score: a record an image, made where the image is, and the score from all records.

    A record is small, holds plain tuples and numbers, can be pickled, and equals the record of an equal prediction.
    """

    task: str

    def count(self, truth: Truth, output: Mapping[str, Any]) -> Record:
        """The record of one image; raises DatasetError for a prediction that does not fit its truth."""

    def summarize(self, records: Sequence[Record]) -> Results:
        """name -> percent, from the records of all images in the order of the ground truth; NaN where undefined."""


class ImageRecord(NamedTuple):
    """What is kept of an image.

    Attributes:
        counts: one record a metric; empty where the image could not be scored.
        saved: its entry in the saved predictions, and a digest of its pictures; None where nothing is saved.
        fault: why it could not be scored, or "".
    """

    counts: tuple[Record, ...]
    saved: Any = None
    fault: str = ""


class Evaluated(NamedTuple):
    """A finished evaluation.

    Attributes:
        results: task -> name -> percent.
        records: for each task that was scored the records of all images, in the order of the ground truth.
        timing: seconds, as ``metrics.json`` has them.
    """

    results: Mapping[str, Results]
    records: Mapping[str, Sequence[Record]]
    timing: Mapping[str, float]


class ImageEvaluator(DatasetEvaluator):
    """Runs metrics over a dataset and refuses to score anything but the whole of it.

    Identical predictions for one image (a sampler that pads its shards) count once; different ones, and images
    without a prediction, end the evaluation on all processes with one error that names them. The result does not
    depend on the order of the images or the number of processes.

    With a writer, predictions are saved before anything is scored, and an image that cannot be scored (a damaged
    label) does not end the inference: all such images are named at the end, and nothing has to be predicted again.

    Args:
        ground_truth: where the truth is read from; once an image, whatever the number of metrics.
        metrics: what to compute.
        on_results: called on the main process.
        writer: saves predictions; None saves none.
        remedy: how to go on with saved predictions after a fault, for the error.
    """

    def __init__(
        self,
        *,
        ground_truth: GroundTruth,
        metrics: Sequence[Metric],
        on_results: Callable[[Evaluated], None] | None = None,
        writer: PredictionWriter | None = None,
        remedy: str = "",
    ):
        self.ground_truth = ground_truth
        self._metrics = list(metrics)
        self.on_results = on_results
        self._writer = writer
        self._remedy = remedy
        self._expected = set(ground_truth.image_ids)
        self._reset_records()

    def reset(self) -> None:
        self._reset_records()
        if self._writer is not None:
            self._writer.start()

    def _reset_records(self) -> None:
        self._records: list[tuple[str, ImageRecord]] = []
        self._started = time.perf_counter()
        self._saving = self._scoring = 0.0

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        for model_input, output in zip(inputs, outputs, strict=True):
            image_id = self.ground_truth.key(model_input)
            if image_id not in self._expected:
                raise DatasetError(
                    f"image {image_id} ({model_input.get('file_name', 'unnamed')}) is not in the ground truth; "
                    "evaluate the dataset that the images were loaded from"
                )
            begin = time.perf_counter()
            output = with_labels(output)
            if self._writer is not None:
                self._writer.save(image_id, output)
            saved = time.perf_counter()
            self._records.append((image_id, self._score(image_id, output)))
            self._saving += saved - begin
            self._scoring += time.perf_counter() - saved

    def _score(self, image_id: str, output: Mapping[str, Any]) -> ImageRecord:
        try:
            truth = self.ground_truth.load(image_id)
            return ImageRecord(tuple(metric.count(truth, output) for metric in self._metrics))
        except DatasetError as error:
            if self._writer is None:
                raise
            if not any(record.fault for _, record in self._records):
                logger.warning("An image cannot be scored; prediction goes on, to be saved. %s", error)
            return ImageRecord((), fault=str(error))

    def evaluate(self) -> OrderedDict[str, Results] | None:
        begin = time.perf_counter()
        records = self._records
        failure: Exception | None = None
        try:
            if self._writer is not None:
                annotations = self._writer.collect()
                records = [(one, r._replace(saved=s)) for (one, r), s in zip(records, annotations, strict=True)]
        except UserError as error:
            failure = error
        self._saving += time.perf_counter() - begin
        gathered = comm.gather(records)
        results: OrderedDict[str, Results] = OrderedDict()
        if comm.is_main_process() and failure is None:
            try:
                results = self._summarize(gathered)
            except Exception as error:
                failure = error
        # All processes end, not only the one that sees the fault.
        faults = [one for one in comm.all_gather(str(failure) if failure is not None else "") if one]
        if failure is not None:
            raise failure
        if faults:
            raise DatasetError(faults[0])
        return results if comm.is_main_process() else None

    def _summarize(self, gathered: Iterable[Iterable[tuple[str, ImageRecord]]]) -> OrderedDict[str, Results]:
        image_ids = self.ground_truth.image_ids
        by_id, conflicting = merge_records(gathered)
        begin = time.perf_counter()
        if self._writer is not None and not conflicting:
            # Before anything is scored, so that no fault of the scoring costs the predictions.
            self._writer.finish([by_id[image_id].saved for image_id in image_ids if image_id in by_id])
        self._saving += time.perf_counter() - begin
        problem = self._problem(by_id, conflicting)
        if problem:
            raise DatasetError(problem)
        begin = time.perf_counter()
        results: OrderedDict[str, Results] = OrderedDict()
        records = {}
        for position, metric in enumerate(self._metrics):
            records[metric.task] = [by_id[image_id].counts[position] for image_id in image_ids]
            summary = metric.summarize(records[metric.task])
            if summary:
                results[metric.task] = summary
        self._scoring += time.perf_counter() - begin
        if self.on_results is not None:
            self.on_results(Evaluated(results, records, self._timing(len(image_ids))))
        return results

    def _problem(self, by_id: Mapping[str, ImageRecord], conflicting: Sequence[str]) -> str:
        image_ids = self.ground_truth.image_ids
        problem = completeness(image_ids, by_id, conflicting)
        faults = [record.fault for record in by_id.values() if record.fault]
        if faults:
            more = f" (and {len(faults) - 10} more)" if len(faults) > 10 else ""
            listed = "; ".join(faults[:10]) + more
            problem += f"{' ' if problem else ''}{len(faults)} of {len(image_ids)} images cannot be scored: {listed}"
        is_saved = self._writer is not None and not conflicting
        return f"{problem}. {self._remedy}" if problem and is_saved and self._remedy else problem

    def _timing(self, num_images: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._started
        return {
            "seconds": seconds,
            "inference_seconds": max(seconds - self._saving - self._scoring, 0.0),
            "saving_seconds": self._saving,
            "scoring_seconds": self._scoring,
            "seconds_per_image": seconds / max(num_images, 1),
        }


def merge_records(
    gathered: Iterable[Iterable[tuple[str, ImageRecord]]],
) -> tuple[dict[str, ImageRecord], list[str]]:
    """The record of each image, and the ids of those whose records differ.

    Args:
        gathered: for each process its (image id, record) pairs.
    """
    by_id: dict[str, ImageRecord] = {}
    conflicting = set()
    for image_id, record in (pair for process in gathered for pair in process):
        if by_id.setdefault(image_id, record) != record:
            conflicting.add(image_id)
    return by_id, sorted(conflicting)


def completeness(image_ids: Sequence[str], predicted: Iterable[str], conflicting: Sequence[str]) -> str:
    """A sentence about images that have no prediction, several, or that are not in the ground truth; "" if none."""
    there, expected = set(predicted), set(image_ids)
    missing = [image_id for image_id in image_ids if image_id not in there]
    foreign = sorted(there - expected)
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(image_ids)} images have no prediction: {listed(missing)}")
    if conflicting:
        problems.append(f"{len(conflicting)} images have different predictions: {listed(conflicting)}")
    if foreign:
        problems.append(f"{len(foreign)} predicted images are not in the ground truth: {listed(foreign)}")
    return "; ".join(problems) + ". Evaluate every image of the dataset exactly once" if problems else ""


def listed(image_ids: Sequence[str]) -> str:
    more = f" and {len(image_ids) - MAX_NAMED} more" if len(image_ids) > MAX_NAMED else ""
    return ", ".join(image_ids[:MAX_NAMED]) + more
