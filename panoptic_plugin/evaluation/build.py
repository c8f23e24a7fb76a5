"""From a dataset's name to its evaluator."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.evaluation.boundary import BoundaryIoU, BoundaryQuality
from panoptic_plugin.evaluation.evaluator import ImageEvaluator, Metric
from panoptic_plugin.evaluation.ground_truth import PanopticGroundTruth, SemanticGroundTruth
from panoptic_plugin.evaluation.instance import CityscapesAP, CocoAP
from panoptic_plugin.evaluation.panoptic import PanopticQuality, PanopticWriter
from panoptic_plugin.evaluation.report import format_results, write_results
from panoptic_plugin.evaluation.semantic import MeanIoU

logger = logging.getLogger(__name__)

PANOPTIC_TYPES = ("coco_panoptic_seg", "cityscapes_panoptic_seg")
SEMANTIC_TYPES = ("sem_seg", "cityscapes_sem_seg")


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None) -> ImageEvaluator:
    """The evaluator of a dataset, chosen by its metadata's ``evaluator_type``.

    Args:
        cfg: reads OUTPUT_DIR, DATASETS.TEST, TEST.SAVE_PREDICTIONS, TEST.BOUNDARY, TEST.BOUNDARY_DILATION and
            MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES.
        dataset_name: a registered dataset.
        output_dir: receives ``metrics.json``; by default OUTPUT_DIR/inference, and a folder of the dataset's name in
            it where DATASETS.TEST names several.

    Raises:
        ConfigError: a dataset whose type is unknown.
        DatasetError: a ground truth that cannot be read.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", None)
    folder = Path(output_dir) if output_dir else _default_folder(cfg, dataset_name)
    if kind in PANOPTIC_TYPES:
        return _panoptic_evaluator(cfg, metadata, dataset_name, folder, kind)
    if kind in SEMANTIC_TYPES:
        return _semantic_evaluator(metadata, dataset_name, folder)
    raise ConfigError(
        f"dataset {dataset_name} has the evaluator_type {kind!r}; expected one of {', '.join(PANOPTIC_TYPES)}, "
        f"{', '.join(SEMANTIC_TYPES)}. Set it where the dataset is registered"
    )


def _default_folder(cfg: CfgNode, dataset_name: str) -> Path:
    folder = Path(cfg.OUTPUT_DIR) / "inference"
    return folder / dataset_name if len(cfg.DATASETS.TEST) > 1 else folder


def _panoptic_evaluator(cfg: CfgNode, metadata: Any, dataset_name: str, folder: Path, kind: str) -> ImageEvaluator:
    things = dict(metadata.thing_dataset_id_to_contiguous_id)
    # The stuff table of some datasets lists the things as well, so the things have the last word.
    contiguous_ids = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
    class_names, thing_ids = list(metadata.stuff_classes), frozenset(things.values())
    divisor = metadata.label_divisor
    truth = PanopticGroundTruth(
        panoptic_json=metadata.panoptic_json,
        panoptic_root=metadata.panoptic_root,
        contiguous_ids=contiguous_ids,
        ignore_label=metadata.get("ignore_label", 255),
    )
    listed = [contiguous_ids[one["id"]] for one in truth.categories if one["id"] in contiguous_ids]
    arguments = {
        "class_names": class_names,
        "thing_ids": thing_ids,
        "categories": listed or sorted(contiguous_ids.values()),
        "label_divisor": divisor,
    }
    quality = PanopticQuality(**arguments)
    metrics: list[Metric] = [quality, MeanIoU(class_names=class_names, label_divisor=divisor)]
    if thing_ids and cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES:
        if kind == "cityscapes_panoptic_seg":
            metrics.append(CityscapesAP(class_names=class_names, gt_dir=metadata.get("gt_dir", None)))
        else:
            metrics.append(CocoAP(class_names=class_names, thing_ids=thing_ids))
    if cfg.TEST.BOUNDARY:
        dilation = cfg.TEST.BOUNDARY_DILATION
        metrics.append(BoundaryQuality(**arguments, dilation=dilation))
        metrics.append(BoundaryIoU(class_names=class_names, label_divisor=divisor, dilation=dilation))
    if cfg.TEST.SAVE_PREDICTIONS:
        dataset_ids = {contiguous: dataset for dataset, contiguous in contiguous_ids.items()}
        writer = PanopticWriter(folder=folder, ground_truth=truth, dataset_ids=dataset_ids, label_divisor=divisor)
        metrics.insert(0, writer)  # first, so that predictions are on disk before anything is scored
    report = partial(
        _report,
        folder=folder,
        dataset_name=dataset_name,
        class_names=class_names,
        thing_ids=thing_ids,
        num_images=len(truth.image_ids),
        quality=quality,
    )
    return ImageEvaluator(ground_truth=truth, metrics=metrics, on_results=report)


def _semantic_evaluator(metadata: Any, dataset_name: str, folder: Path) -> ImageEvaluator:
    files = {record["file_name"]: record["sem_seg_file_name"] for record in DatasetCatalog.get(dataset_name)}
    truth = SemanticGroundTruth(files=files, ignore_label=metadata.get("ignore_label", 255))
    class_names = list(metadata.stuff_classes)
    report = partial(
        _report,
        folder=folder,
        dataset_name=dataset_name,
        class_names=class_names,
        thing_ids=frozenset(),
        num_images=len(files),
    )
    return ImageEvaluator(ground_truth=truth, metrics=[MeanIoU(class_names=class_names)], on_results=report)


def _report(
    results: Mapping[str, Mapping[str, float]],
    *,
    folder: Path,
    dataset_name: str,
    class_names: Sequence[str],
    thing_ids: frozenset[int],
    num_images: int,
    quality: PanopticQuality | None = None,
) -> None:
    num_categories = quality.num_categories() if quality else {}
    tables = format_results(results, class_names, thing_ids, num_categories)
    logger.info("Evaluation of %s, %d images, in percent:\n%s", dataset_name, num_images, tables)
    path = folder / "metrics.json"
    write_results(
        path,
        results,
        class_names,
        thing_ids,
        dataset=dataset_name,
        num_images=num_images,
        num_categories=num_categories,
    )
    logger.info("Results written to %s", path)
