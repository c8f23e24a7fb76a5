"""Cityscapes' gtFine to a panoptic set and to trainId PNGs, equal to what cityscapesscripts writes.

One thing is mended unless asked otherwise: cityscapesscripts names images that do not exist
(``X_gtFine_leftImg8bit.png``); here ``images[].file_name`` is the image below ``leftImg8bit/SPLIT``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label, labels

from panoptic_plugin.data.cityscapes_layout import CITYSCAPES_CATEGORIES, FIRST_INSTANCE, panoptic_records
from panoptic_plugin.data.convert.panoptic_set import Record, written_set
from panoptic_plugin.data.convert.parallel import in_order
from panoptic_plugin.data.convert.pixels import read_label_png
from panoptic_plugin.data.convert.report import Report, counted
from panoptic_plugin.data.convert.staging import Staging
from panoptic_plugin.errors import DatasetError

INSTANCE_SUFFIX = "_gtFine_instanceIds.png"
LABEL_SUFFIX = "_gtFine_labelIds.png"
TRAIN_ID_SUFFIX = "_gtFine_labelTrainIds.png"
SPLITS = ("train", "val", "test")


def convert_cityscapes(
    gt_fine: str | Path,
    split: str,
    output: str | Path | None = None,
    *,
    real_image_names: bool = True,
    overwrite: bool = False,
    num_workers: int | None = None,
) -> Report:
    """Write ``cityscapes_panoptic_SPLIT.json`` and the PNG folder of that name.

    Args:
        gt_fine: the ``gtFine`` folder.
        split: "train", "val" or "test".
        output: where they go; ``gt_fine`` by default, where Detectron2 looks for them.
        real_image_names: False writes the JSON byte for byte as cityscapesscripts does.

    Raises:
        DatasetError: no label files, or a damaged one; or the output exists.
    """
    files = label_files(gt_fine, split, INSTANCE_SUFFIX)
    name = f"cityscapes_panoptic_{split}"
    with Staging(output or gt_fine, overwrite=overwrite) as stage:
        stage.refuse_existing(f"{name}.json")
        write = partial(_write_panoptic, stage, name, real_image_names)
        records = in_order(write, files, split, num_workers)
        content = {
            "images": [image for image, _, _ in records],
            "annotations": [annotation for _, annotation, _ in records],
            "categories": CITYSCAPES_CATEGORIES,
        }
        stage.write_json(f"{name}.json", content, indent=4, sort_keys=True)
    report = Report(
        read=[f"{Path(gt_fine) / split}: {counted(len(files), f'*{INSTANCE_SUFFIX}', f'*{INSTANCE_SUFFIX}')}"],
        written=written_set(output or gt_fine, name, content["annotations"]),
    )
    report.lose("pixels of classes that Cityscapes does not evaluate (void now)", sum(void for *_, void in records))
    return report


def convert_train_ids(
    gt_fine: str | Path, split: str, *, overwrite: bool = False, num_workers: int | None = None
) -> Report:
    """Write ``*_gtFine_labelTrainIds.png`` beside each ``*_gtFine_labelIds.png``.

    Raises:
        DatasetError: no label files, or a damaged one; or an output exists.
    """
    files = label_files(gt_fine, split, LABEL_SUFFIX)
    with Staging(gt_fine, overwrite=overwrite) as stage:
        in_order(partial(_write_train_ids, stage, Path(gt_fine)), files, split, num_workers)
    report = Report(
        read=[f"{Path(gt_fine) / split}: {counted(len(files), f'*{LABEL_SUFFIX}', f'*{LABEL_SUFFIX}')}"],
        written=[f"{Path(gt_fine) / split}: {counted(len(files), f'*{TRAIN_ID_SUFFIX}', f'*{TRAIN_ID_SUFFIX}')}"],
    )
    report.notes.append("classes that Cityscapes does not evaluate become 255")
    return report


def label_files(gt_fine: str | Path, split: str, suffix: str) -> list[Path]:
    """All label files of a split, in order; DatasetError where there are none."""
    files = sorted(Path(gt_fine, split).glob(f"*/*{suffix}"))
    if not files:
        raise DatasetError(
            f"{Path(gt_fine, split)} holds no CITY/*{suffix}; give the gtFine folder of the unpacked "
            "gtFine_trainvaltest.zip"
        )
    return files


def train_id_table() -> np.ndarray:
    """uint8 (256,): label id -> trainId, 255 for all that is not trained on."""
    table = np.full(256, 255, dtype=np.uint8)
    for label in labels:
        if label.id >= 0:
            table[label.id] = label.trainId % 256
    return table


def _write_panoptic(stage: Staging, name: str, real_names: bool, file: Path) -> tuple[Record, Record, int]:
    ids = read_label_png(str(file), ("I;16", "I", "L")).astype(np.int32)
    unknown = [int(v) for v in np.unique(ids) if (v if v < FIRST_INSTANCE else v // FIRST_INSTANCE) not in id2label]
    if unknown:
        raise DatasetError(f"label {file} holds the value {unknown[0]}, which is no id of Cityscapes; copy it again")
    image_id = file.name.removesuffix(INSTANCE_SUFFIX)
    staged = stage.path(Path(name, f"{image_id}_gtFine_panoptic.png"))
    image, annotation = panoptic_records(ids, image_id, staged.parent)
    if real_names:
        image["file_name"] = f"{file.parent.name}/{image_id}_leftImg8bit.png"
    return image, annotation, int(ids.size) - sum(segment["area"] for segment in annotation["segments_info"])


def _write_train_ids(stage: Staging, gt_fine: Path, file: Path) -> None:
    classes = read_label_png(str(file), ("L",))
    target = file.with_name(file.name.replace(LABEL_SUFFIX, TRAIN_ID_SUFFIX))
    stage.write_png(target.relative_to(gt_fine), train_id_table()[classes])
