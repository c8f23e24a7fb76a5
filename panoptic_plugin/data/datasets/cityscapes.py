"""Cityscapes (https://www.cityscapes-dataset.com) from disk: ``leftImg8bit/SPLIT/CITY``, ``gtFine/SPLIT/CITY``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from PIL import Image

from panoptic_plugin.data.panoptic_json import load_records
from panoptic_plugin.errors import DatasetError

IMAGE_SUFFIX = "_leftImg8bit.png"
TRAIN_ID_SUFFIX = "_gtFine_labelTrainIds.png"
TRY_OUT = "To try things out without it: panoptic data synthesize --layout cityscapes --output DIR"


def load_cityscapes_panoptic(name: str) -> list[dict[str, Any]]:
    """Dataset dicts of ``cityscapes_fine_panoptic_{train,val}``, paths from its metadata.

    ``sem_seg_file_name`` is given as in Detectron2, whether or not the trainId PNG is there: the panoptic label
    holds the same classes and is what the mapper reads.
    """
    metadata = MetadataCatalog.get(name)
    check_images(name, metadata.image_root)
    if not (os.path.isfile(metadata.panoptic_json) and os.path.isdir(metadata.panoptic_root)):
        raise DatasetError(
            f"{name}: {metadata.panoptic_json} and the folder {metadata.panoptic_root} must both exist. Write them "
            f"with: panoptic data prepare cityscapes --root {Path(metadata.panoptic_json).parents[2]}"
        )
    records = load_records(metadata.panoptic_json, metadata.image_root, metadata.panoptic_root, metadata.as_dict())
    for record in records:
        city = os.path.basename(os.path.dirname(record["file_name"]))
        label = f"{record['image_id']}{TRAIN_ID_SUFFIX}"
        record["sem_seg_file_name"] = os.path.join(metadata.gt_dir, city, label)
    return records


def load_cityscapes_semantic(name: str) -> list[dict[str, Any]]:
    """Dataset dicts of ``cityscapes_fine_sem_seg_{train,val}``; the label is ``sem_seg_file_name``, trainIds."""
    metadata = MetadataCatalog.get(name)
    check_images(name, metadata.image_dir)
    records, missing = [], []
    for image in sorted(Path(metadata.image_dir).glob(f"*/*{IMAGE_SUFFIX}")):
        image_id = image.name.removesuffix(IMAGE_SUFFIX)
        label = Path(metadata.gt_dir, image.parent.name, image_id + TRAIN_ID_SUFFIX)
        if not label.is_file():
            missing.append(str(label))
            continue
        records.append({"file_name": str(image), "image_id": image_id, "sem_seg_file_name": str(label), **_size(image)})
    if missing:
        raise DatasetError(
            f"{name}: {len(missing)} label files are missing, the first is {missing[0]}. Write them with: "
            f"panoptic data prepare cityscapes --root {Path(metadata.image_dir).parents[2]}"
        )
    return records


def check_images(name: str, image_root: str) -> None:
    """Raise DatasetError unless the folder of images is there and holds images of the expected name."""
    root = Path(image_root).parents[2]
    if not Path(image_root).is_dir():
        raise DatasetError(
            f"{name}: the image folder {image_root} does not exist. Unpack leftImg8bit_trainvaltest.zip and "
            f"gtFine_trainvaltest.zip into {root / 'cityscapes'}, or set DETECTRON2_DATASETS to the folder that holds "
            f"cityscapes/. {TRY_OUT}"
        )
    if not next(Path(image_root).glob(f"*/*{IMAGE_SUFFIX}"), None):
        raise DatasetError(f"{name}: {image_root} holds no CITY/*{IMAGE_SUFFIX}; was the archive unpacked completely?")


def _size(image: Path) -> dict[str, int]:
    try:
        with Image.open(image) as header:
            return {"height": header.height, "width": header.width}
    except OSError:
        raise DatasetError(f"image {image} is no readable PNG; the file is damaged, unpack it again") from None
