"""From a dataset's name to its evaluator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.evaluation import fingerprint
from panoptic_plugin.evaluation.ap_report import ap_text
from panoptic_plugin.evaluation.boundary import BoundaryIoU, BoundaryQuality
from panoptic_plugin.evaluation.evaluator import Evaluated, ImageEvaluator, Metric
from panoptic_plugin.evaluation.ground_truth import GroundTruth, PanopticGroundTruth, SemanticGroundTruth
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.evaluation.panoptic import PanopticQuality, class_qualities
from panoptic_plugin.evaluation.per_image import confusion_json, image_lines
from panoptic_plugin.evaluation.predictions import PredictionWriter
from panoptic_plugin.evaluation.report import format_results, write_results
from panoptic_plugin.evaluation.semantic import MeanIoU
from panoptic_plugin.evaluation.semantic_predictions import SemanticPredictions
from panoptic_plugin.evaluation.truth_cache import Store, TruthCache, cache_root, check_cache_keys
from panoptic_plugin.evaluation.truth_files import INSTANCES, PANOPTIC
from panoptic_plugin.evaluation.truth_stores import FileStore, FolderStore
from panoptic_plugin.files import replace_file

logger = logging.getLogger(__name__)

INSTANCE_METRICS = ("dataset", "coco")
PANOPTIC_TYPES = ("coco_panoptic_seg", "cityscapes_panoptic_seg")
SEMANTIC_TYPES = ("sem_seg", "cityscapes_sem_seg")
Entries = Callable[[], Mapping[str, Any]]


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None, *, checkpoint: str | None = None
) -> ImageEvaluator:
    """The evaluator of a dataset, chosen by its metadata's ``evaluator_type``.

    Args:
        cfg: reads OUTPUT_DIR, DATASETS.TEST, TEST.SAVE_PREDICTIONS, TEST.BOUNDARY, TEST.BOUNDARY_DILATION,
            MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES and the keys of :func:`use_cache`.
        dataset_name: a registered dataset.
        output_dir: receives what docs/evaluation.md lists; by default OUTPUT_DIR/inference, and a folder of the
            dataset's name in it where DATASETS.TEST names several.
        checkpoint: the weights that are evaluated; by default MODEL.WEIGHTS, unless a training evaluates its own.

    Raises:
        ConfigError: a dataset whose type is unknown.
        DatasetError: a ground truth that cannot be read.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", None)
    folder = Path(output_dir) if output_dir else results_folder(cfg, dataset_name)
    about = partial(fingerprint.run_entries, cfg, checkpoint or cfg.MODEL.WEIGHTS)
    if kind in PANOPTIC_TYPES:
        labels = PanopticLabels.of(metadata)
        use_cache(cfg, labels, dataset_name)
        return panoptic_evaluator(
            labels,
            dataset_name=dataset_name,
            folder=folder,
            with_instances=bool(labels.thing_ids) and cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES,
            instance_metric=cfg.TEST.INSTANCE_METRIC,
            boundary=cfg.TEST.BOUNDARY_DILATION if cfg.TEST.BOUNDARY else None,
            save=cfg.TEST.SAVE_PREDICTIONS,
            remedy=_rescoring(cfg, metadata, dataset_name, folder),
            about=about,
        )
    if kind in SEMANTIC_TYPES:
        return _semantic_evaluator(metadata, dataset_name, folder, about, save=cfg.TEST.SAVE_PREDICTIONS)
    raise ConfigError(
        f"dataset {dataset_name} has the evaluator_type {kind!r}; expected one of {', '.join(PANOPTIC_TYPES)}, "
        f"{', '.join(SEMANTIC_TYPES)}. Set it where the dataset is registered"
    )


def use_cache(cfg: CfgNode, labels: PanopticLabels, dataset_name: str) -> None:
    """Let the truth come from a cache on disk, see docs/evaluation.md.

    Args:
        cfg: reads TEST.CACHE, TEST.CACHE_VERIFY, TEST.PANOP_JSON and TEST.INSTANCE_COCO_EVAL.
        labels: whose ``truth`` gets the cache.
        dataset_name: names the folder.

    Raises:
        ConfigError: keys that are none of their choices.
        DatasetError: a file that was given is of other data, damaged or no cache.
    """
    test = cfg.TEST
    check_cache_keys(test.CACHE, test.CACHE_VERIFY)
    if test.CACHE == "off":
        return
    root = cache_root()
    automatic = FolderStore(root, dataset_name) if root else None
    stores: list[Store] = [automatic] if automatic else []
    if test.PANOP_JSON:
        stores = [FileStore(Path(test.PANOP_JSON), "TEST.PANOP_JSON", PANOPTIC)]
    if test.INSTANCE_COCO_EVAL:
        stores.append(FileStore(Path(test.INSTANCE_COCO_EVAL), "TEST.INSTANCE_COCO_EVAL", INSTANCES))
    classes = {
        "names": labels.class_names,
        "things": sorted(labels.thing_ids),
        "contiguous_ids": sorted(labels.contiguous_ids.items()),
        "label_divisor": labels.metadata.get("label_divisor", 1000),
    }
    cache = TruthCache(
        labels.truth,
        classes=classes,
        stores=stores,
        hash_index=automatic.hash_index if automatic and test.CACHE_VERIFY == "stat" else None,
        rebuild=test.CACHE == "rebuild",
    )
    labels.truth.cache = cache
    if any(store.is_given for store in stores):
        cache.open()  # what is wrong with it is said before anything is predicted


def results_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Where an evaluation writes by default; reads OUTPUT_DIR and DATASETS.TEST."""
    folder = Path(cfg.OUTPUT_DIR) / "inference"
    return folder / dataset_name if len(cfg.DATASETS.TEST) > 1 else folder


def _rescoring(cfg: CfgNode, metadata: Any, dataset_name: str, folder: Path) -> str:
    config = Path(cfg.OUTPUT_DIR) / "config.yaml"
    source = (
        f"--config-file {config} --dataset {dataset_name}"
        if config.is_file()
        else f"--json {metadata.panoptic_json} --panoptic {metadata.panoptic_root}"
    )
    return (
        f"The predictions are saved; score them when the files are mended, without predicting again: "
        f"panoptic evaluate --predictions {folder / 'predictions'} {source} --output {folder}"
    )


@dataclass(frozen=True)
class PanopticLabels:
    """What a panoptic dataset's metadata say, and where its truth is.

    Attributes:
        metadata: with the keys that ``register_panoptic_dataset`` sets.
        contiguous_ids: category id of the JSON -> contiguous id.
        class_names: by contiguous id.
        thing_ids: contiguous ids of the things.
        truth: the ground truth.
    """

    metadata: Any
    contiguous_ids: dict[int, int]
    class_names: list[str]
    thing_ids: frozenset[int]
    truth: PanopticGroundTruth

    @classmethod
    def of(cls, metadata: Any) -> PanopticLabels:
        """From Detectron2's metadata; raises DatasetError for a ground truth that cannot be read."""
        things = dict(metadata.thing_dataset_id_to_contiguous_id)
        # The stuff table of some datasets lists the things as well, so the things have the last word.
        contiguous_ids = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
        truth = PanopticGroundTruth(
            panoptic_json=metadata.panoptic_json,
            panoptic_root=metadata.panoptic_root,
            contiguous_ids=contiguous_ids,
            ignore_label=metadata.get("ignore_label", 255),
            stuff_ids=set(contiguous_ids.values()) - set(things.values()),
        )
        return cls(metadata, contiguous_ids, list(metadata.stuff_classes), frozenset(things.values()), truth)


def panoptic_evaluator(
    labels: PanopticLabels,
    *,
    dataset_name: str,
    folder: Path | None,
    with_instances: bool,
    instance_metric: str = "dataset",
    boundary: float | None = None,
    save: bool = False,
    remedy: str = "",
    about: Entries = dict,
    classes_from: str = "semantic",
    predictions: Path | None = None,
) -> ImageEvaluator:
    """PQ, mIoU and AP of a panoptic dataset.

    Args:
        labels: the dataset.
        dataset_name: for the report.
        folder: receives the files of docs/evaluation.md; None writes none.
        with_instances: compute AP.
        instance_metric: see ``TEST.INSTANCE_METRIC``.
        boundary: compute Boundary PQ and IoU too, with this share of the image's diagonal as width.
        save: write the predictions.
        remedy: see :class:`~panoptic_plugin.evaluation.evaluator.ImageEvaluator`.
        about: entries of ``metrics.json`` about weights and config; called when it is written.
        classes_from: "semantic", or "panoptic" where the classes of mIoU are those of the panoptic map.
        predictions: the folder of predictions that are on disk already, for the report.
    """
    listed = [labels.contiguous_ids[one["id"]] for one in labels.truth.categories if one["id"] in labels.contiguous_ids]
    divisor = labels.metadata.get("label_divisor", 1000)
    classes = {"class_names": labels.class_names, "label_divisor": divisor}
    panoptic = {
        **classes,
        "thing_ids": labels.thing_ids,
        "categories": listed or sorted(labels.contiguous_ids.values()),
    }
    quality = PanopticQuality(**panoptic)
    metrics: list[Metric] = [quality, MeanIoU(**classes)]
    instances = _instance_metric(labels, instance_metric) if with_instances else None
    if instances is not None:
        metrics.append(instances)
    if boundary is not None:
        metrics += [BoundaryQuality(**panoptic, dilation=boundary), BoundaryIoU(**classes, dilation=boundary)]
    report = Report(folder, dataset_name, labels.class_names, labels.truth, labels.thing_ids, about, quality)
    report.instances = instances
    report.classes_from, report.predictions = classes_from, folder / "predictions" if save and folder else predictions
    writer = None
    if save and folder:
        writer = PredictionWriter(
            folder=folder / "predictions",
            ground_truth=labels.truth,
            dataset_ids={contiguous: dataset for dataset, contiguous in labels.contiguous_ids.items()},
            label_divisor=divisor,
            info=lambda: {**report.origin(), "scored": with_instances},
        )
    return ImageEvaluator(ground_truth=labels.truth, metrics=metrics, on_results=report, writer=writer, remedy=remedy)


def _instance_metric(labels: PanopticLabels, kind: str) -> CityscapesAP | CocoAP:
    if kind not in INSTANCE_METRICS:
        raise ConfigError(f"TEST.INSTANCE_METRIC is {kind!r}, expected one of {', '.join(INSTANCE_METRICS)}")
    if kind == "dataset" and labels.metadata.get("evaluator_type", None) == "cityscapes_panoptic_seg":
        return CityscapesAP(class_names=labels.class_names, gt_dir=labels.metadata.get("gt_dir", None))
    return CocoAP(class_names=labels.class_names, thing_ids=labels.thing_ids)


def _semantic_evaluator(
    metadata: Any, dataset_name: str, folder: Path, about: Entries, *, save: bool
) -> ImageEvaluator:
    files = {record["file_name"]: record["sem_seg_file_name"] for record in DatasetCatalog.get(dataset_name)}
    truth = SemanticGroundTruth(files=files, ignore_label=metadata.get("ignore_label", 255))
    class_names = list(metadata.stuff_classes)
    metrics: list[Metric] = [MeanIoU(class_names=class_names)]
    if save:
        written = metadata.get("stuff_dataset_id_to_contiguous_id", {})
        dataset_ids = {contiguous: dataset for dataset, contiguous in written.items()}
        metrics.insert(0, SemanticPredictions(folder=folder, dataset_ids=dataset_ids))
    report = Report(folder, dataset_name, class_names, truth, frozenset(), about)
    return ImageEvaluator(ground_truth=truth, metrics=metrics, on_results=report)


@dataclass
class Report:
    """Logs the tables of a finished evaluation and writes its files; see docs/evaluation.md.

    Attributes:
        folder: receives the files; None writes none.
        dataset_name, class_names, truth, thing_ids: of the dataset.
        about: see :func:`panoptic_evaluator`.
        quality: the metric whose counts are reported, if PQ is among the metrics.
        instances: the same for AP.
        classes_from: see :func:`panoptic_evaluator`.
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
