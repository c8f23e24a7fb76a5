"""The end of an evaluation: tables in the log, and the files of docs/evaluation.md."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoptic_plugin.evaluation import fingerprint
from panoptic_plugin.evaluation.ap_report import ap_text
from panoptic_plugin.evaluation.evaluator import Evaluated
from panoptic_plugin.evaluation.ground_truth import GroundTruth, PanopticGroundTruth
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.evaluation.panoptic import PanopticQuality, class_qualities
from panoptic_plugin.evaluation.per_image import confusion_json, image_lines
from panoptic_plugin.evaluation.report import format_results, write_results
from panoptic_plugin.evaluation.semantic import MeanIoU
from panoptic_plugin.files import replace_file

logger = logging.getLogger(__name__)

# Called when the files are written, for entries of metrics.json about weights and config.
Entries = Callable[[], Mapping[str, Any]]


@dataclass
class Report:
    """Logs the tables of a finished evaluation and writes its files; see docs/evaluation.md.

    Attributes:
        folder: receives the files; None writes none.
        dataset_name, class_names, truth, thing_ids: of the dataset.
        about: see :func:`~panoptic_plugin.evaluation.build.panoptic_evaluator`.
        quality: the metric whose counts are reported, if PQ is among the metrics.
        instances: the same for AP.
        classes_from: likewise.
        predictions: the folder of the predictions.
        tables: the text of the last report.
    """

    folder: Path | None
    dataset_name: str
    class_names: Sequence[str]
    truth: GroundTruth
    thing_ids: frozenset[int]
    about: Entries
    quality: PanopticQuality | None = None
    instances: CityscapesAP | CocoAP | None = None
    classes_from: str = "semantic"
    predictions: Path | None = None
    tables: str = field(default="", repr=False)

    def origin(self) -> dict[str, Any]:
        """Entries of ``metrics.json`` that hold for the predictions as well."""
        dataset = fingerprint.dataset_fingerprint(*self.truth.files)
        return {"dataset": self.dataset_name, "dataset_fingerprint": dataset, **self.about()}

    def __call__(self, evaluated: Evaluated) -> None:
        quality, num_images = self.quality, len(self.truth.image_ids)
        num_categories = quality.num_categories() if quality else {}
        qualities = class_qualities(quality.counts, range(len(self.class_names))) if quality else {}
        shared = (evaluated.results, self.class_names, self.thing_ids)
        self.tables = format_results(*shared, num_categories, qualities)
        logger.info("Evaluation of %s, %d images, in percent:\n%s", self.dataset_name, num_images, self.tables)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_details(self.folder, evaluated)
        about = {**self.origin(), "created": fingerprint.now()}
        if self.instances is not None:
            self._write_ap(self.folder, evaluated, about)
        write_results(
            self.folder / "metrics.json",
            *shared,
            qualities,
            num_images=num_images,
            num_categories=num_categories,
            **about,
            predictions=str(self.predictions) if self.predictions else None,
            instances=self.instances.counts if self.instances is not None else None,
            timing={name: round(seconds, 4) for name, seconds in evaluated.timing.items()},
            software=fingerprint.software(),
        )
        logger.info("Results written to %s", self.folder / "metrics.json")

    def _write_ap(self, folder: Path, evaluated: Evaluated, about: Mapping[str, Any]) -> None:
        assert self.instances is not None
        counts = self.instances.counts
        if counts["dropped"]:
            logger.info(
                "%d of %d predicted instances are beyond COCO's 100 of a class in an image, and are in no AP or AR",
                counts["dropped"],
                counts["predicted"],
            )
        checkpoint = about.get("checkpoint") or {}
        shown = {
            "dataset": f"{about['dataset']}, {len(self.truth.image_ids)} images",
            "weights": checkpoint.get("path", "not a file") if isinstance(checkpoint, Mapping) else checkpoint,
            "iteration": about.get("iteration"),
            "created": about["created"],
        }
        values = evaluated.results.get(self.instances.task, {})
        text = ap_text(values, self.class_names, self.thing_ids, counts=counts, about=shown)
        replace_file(folder / "ap_res.txt", text)

    def _write_details(self, folder: Path, evaluated: Evaluated) -> None:
        confusions = evaluated.records.get(MeanIoU.task)
        if self.quality is not None and isinstance(self.truth, PanopticGroundTruth):
            names = (self.truth.about(image_id) for image_id in self.truth.image_ids)
            qualities = evaluated.records[self.quality.task]
            replace_file(folder / "per_image.jsonl", image_lines(names, qualities, confusions, len(self.class_names)))
        if confusions is not None:
            content = confusion_json(confusions, self.class_names, self.classes_from)
            replace_file(folder / "confusion.json", content + "\n")
