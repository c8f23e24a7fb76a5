"""From a dataset's name to its evaluator."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.evaluation import fingerprint
from panoptic_plugin.evaluation.boundary import BoundaryIoU, BoundaryQuality
from panoptic_plugin.evaluation.evaluator import ImageEvaluator, Metric
from panoptic_plugin.evaluation.ground_truth import GroundTruth, SemanticGroundTruth
from panoptic_plugin.evaluation.panoptic import PanopticQuality
from panoptic_plugin.evaluation.panoptic_labels import (
    PANOPTIC_TYPES,
    PanopticLabels,
    make_instance_metric,
    use_cache,
)
from panoptic_plugin.evaluation.predictions import PredictionWriter
from panoptic_plugin.evaluation.result_files import Entries, Report
from panoptic_plugin.evaluation.semantic import MeanIoU
from panoptic_plugin.evaluation.semantic_predictions import SemanticPredictions

logger = logging.getLogger(__name__)

SEMANTIC_TYPES = ("sem_seg", "cityscapes_sem_seg")
# Meta-architectures that give classes and no segments.
SEMANTIC_MODELS = ("SemanticSegmentor",)
# Those that give boxes alone where MODEL.MASK_ON is off.
MODELS_WITH_MASK_ON = ("PanopticDETR",)


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None, *, checkpoint: str | None = None
) -> ImageEvaluator:
    """The evaluator of a dataset, chosen by its metadata's ``evaluator_type``.

    Args:
        cfg: reads OUTPUT_DIR, DATASETS.TEST, TEST.SAVE_PREDICTIONS, TEST.BOUNDARY, TEST.BOUNDARY_DILATION,
            the keys of :func:`predicts_instances` and of :func:`use_cache`.
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
        if cfg.MODEL.META_ARCHITECTURE in MODELS_WITH_MASK_ON and not cfg.MODEL.MASK_ON:
            raise ConfigError(
                "MODEL.MASK_ON is False, so the model gives boxes and no masks to score; set DATASETS.TEST to "
                "an empty list while the boxes are trained, and evaluate the model with its mask head"
            )
        labels = PanopticLabels.of(metadata)
        use_cache(cfg, labels, dataset_name)
        if cfg.MODEL.META_ARCHITECTURE in SEMANTIC_MODELS:
            return _classes_of_panoptic(cfg, labels, dataset_name, folder, about)
        return panoptic_evaluator(
            labels,
            dataset_name=dataset_name,
            folder=folder,
            with_instances=bool(labels.thing_ids) and predicts_instances(cfg),
            instance_metric=cfg.TEST.INSTANCE_METRIC,
            boundary=cfg.TEST.BOUNDARY_DILATION if cfg.TEST.BOUNDARY else None,
            save=cfg.TEST.SAVE_PREDICTIONS,
            remedy=_rescoring(cfg, metadata, dataset_name, folder),
            about=about,
        )
    if kind in SEMANTIC_TYPES:
        return _evaluator_of_semantic(metadata, dataset_name, folder, about, save=cfg.TEST.SAVE_PREDICTIONS)
    raise ConfigError(
        f"dataset {dataset_name} has the evaluator_type {kind!r}; expected one of {', '.join(PANOPTIC_TYPES)}, "
        f"{', '.join(SEMANTIC_TYPES)}. Set it where the dataset is registered"
    )


def predicts_instances(cfg: CfgNode) -> bool:
    """Whether results of the model hold ``instances``; the key for it depends on MODEL.META_ARCHITECTURE."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE == "PanopticDETR":
        return model.DETR.TEST.INSTANCE_ON
    if model.META_ARCHITECTURE == "PluginEfficientPS":
        return model.SOLOV2.PREDICT_INSTANCES
    return model.PANOPTIC_DEEPLAB.PREDICT_INSTANCES


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
    instances = make_instance_metric(labels, instance_metric) if with_instances else None
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


def _classes_of_panoptic(
    cfg: CfgNode, labels: PanopticLabels, dataset_name: str, folder: Path, about: Entries
) -> ImageEvaluator:
    """mIoU on the ground truth of a panoptic dataset, for a model that knows no segments."""
    logger.warning(
        "%s predicts classes and no segments, so that of the panoptic dataset %s mIoU alone is computed",
        cfg.MODEL.META_ARCHITECTURE,
        dataset_name,
    )
    dataset_ids = {contiguous: dataset for dataset, contiguous in labels.contiguous_ids.items()}
    report = Report(folder, dataset_name, labels.class_names, labels.truth, labels.thing_ids, about)
    return _semantic_evaluator(labels.truth, dataset_ids, report, save=cfg.TEST.SAVE_PREDICTIONS)


def _evaluator_of_semantic(
    metadata: Any, dataset_name: str, folder: Path, about: Entries, *, save: bool
) -> ImageEvaluator:
    files = {record["file_name"]: record["sem_seg_file_name"] for record in DatasetCatalog.get(dataset_name)}
    truth = SemanticGroundTruth(files=files, ignore_label=metadata.get("ignore_label", 255))
    written = metadata.get("stuff_dataset_id_to_contiguous_id", {})
    dataset_ids = {contiguous: dataset for dataset, contiguous in written.items()}
    report = Report(folder, dataset_name, list(metadata.stuff_classes), truth, frozenset(), about)
    return _semantic_evaluator(truth, dataset_ids, report, save=save)


def _semantic_evaluator(
    truth: GroundTruth, dataset_ids: dict[int, int], report: Report, *, save: bool
) -> ImageEvaluator:
    metrics: list[Metric] = [MeanIoU(class_names=list(report.class_names))]
    if save and report.folder is not None:
        metrics.insert(0, SemanticPredictions(folder=report.folder, dataset_ids=dataset_ids))
    return ImageEvaluator(ground_truth=truth, metrics=metrics, on_results=report)
