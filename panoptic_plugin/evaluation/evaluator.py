"""Every image exactly once: the bridge from metrics to Detectron2's evaluators, on one process or many."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from panoptic_plugin.errors import DatasetError
from panoptic_plugin.evaluation.ground_truth import GroundTruth, Truth

logger = logging.getLogger(__name__)

Record = Any
Results = dict[str, float]


class Metric(Protocol):
    """One score: a record an image, made where the image is, and the score from all records.

    A record is small, holds plain tuples and numbers, can be pickled, and equals the record of an equal prediction.
    """

    task: str

    def count(self, truth: Truth, output: Mapping[str, Any]) -> Record:
        """The record of one image; raises DatasetError for a prediction that does not fit its truth."""

    def summarize(self, records: Sequence[Record]) -> Results:
        """name -> percent, from the records of all images in the order of the ground truth; NaN where undefined."""


class ImageEvaluator(DatasetEvaluator):
    """Runs metrics over a dataset and refuses to score anything but the whole of it.

    Identical predictions for one image (a sampler that pads its shards) count once; different ones, and images
    without a prediction, end the evaluation on all processes with one error that names them. The result does not
    depend on the order of the images or the number of processes.

    Args:
        ground_truth: where the truth is read from; once an image, whatever the number of metrics.
        metrics: what to compute.
        on_results: called on the main process with the results.
    """

    def __init__(
        self,
        *,
        ground_truth: GroundTruth,
        metrics: Sequence[Metric],
        on_results: Callable[[Mapping[str, Results]], None] | None = None,
    ):
        self._truth = ground_truth
        self._metrics = list(metrics)
        self._on_results = on_results
        self._expected = set(ground_truth.image_ids)
        self.reset()

    def reset(self) -> None:
        self._records: list[tuple[str, tuple[Record, ...]]] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        for model_input, output in zip(inputs, outputs, strict=True):
            image_id = self._truth.key(model_input)
            if image_id not in self._expected:
                raise DatasetError(
                    f"image {image_id} ({model_input.get('file_name', 'unnamed')}) is not in the ground truth; "
                    "evaluate the dataset that the images were loaded from"
                )
            truth = self._truth.load(image_id)
            self._records.append((image_id, tuple(metric.count(truth, output) for metric in self._metrics)))

    def evaluate(self) -> OrderedDict[str, Results] | None:
        gathered = comm.gather(self._records)
        records, problem = merge_records(gathered, self._truth.image_ids) if comm.is_main_process() else ([], None)
        problem = comm.all_gather(problem)[0]  # all processes end, not only the one that sees the fault
        if problem:
            raise DatasetError(problem)
        if not comm.is_main_process():
            return None
        results: OrderedDict[str, Results] = OrderedDict()
        for position, metric in enumerate(self._metrics):
            summary = metric.summarize([record[position] for record in records])
            if summary:
                results[metric.task] = summary
        if self._on_results is not None:
            self._on_results(results)
        return results


def merge_records(
    gathered: Iterable[Iterable[tuple[str, Record]]], image_ids: Sequence[str]
) -> tuple[list[Record], str | None]:
    """The records of all processes in the order of ``image_ids``, and a sentence about what is wrong with them.

    Args:
        gathered: for each process its (image id, record) pairs.
        image_ids: the ground truth's images.
    """
    by_id: dict[str, Record] = {}
    conflicting = set()
    for image_id, record in (pair for process in gathered for pair in process):
        if by_id.setdefault(image_id, record) != record:
            conflicting.add(image_id)
    missing = [image_id for image_id in image_ids if image_id not in by_id]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(image_ids)} images have no prediction: {_listed(missing)}")
    if conflicting:
        problems.append(f"{len(conflicting)} images have different predictions: {_listed(sorted(conflicting))}")
    if problems:
        return [], "; ".join(problems) + ". Evaluate every image of the dataset exactly once"
    return [by_id[image_id] for image_id in image_ids], None


def _listed(image_ids: Sequence[str], limit: int = 50) -> str:
    more = f" and {len(image_ids) - limit} more" if len(image_ids) > limit else ""
    return ", ".join(image_ids[:limit]) + more
