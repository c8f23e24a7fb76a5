"""COCO panoptic (https://cocodataset.org) from disk: ``train2017/``, ``annotations/``, ``panoptic_train2017/``."""

from __future__ import annotations

import os
from typing import Any

from detectron2.data import MetadataCatalog

from panoptic_plugin.data.panoptic_json import load_records
from panoptic_plugin.errors import DatasetError


def load_coco_panoptic(name: str) -> list[dict[str, Any]]:
    """Dataset dicts of ``coco_2017_{train,val}_panoptic``, paths from its metadata."""
    metadata = MetadataCatalog.get(name)
    if name.endswith("val_100_panoptic"):
        prepare = "python datasets/prepare_panoptic_fpn.py of Detectron2 makes this subset"
    else:
        prepare = (
            "download it with panoptic_annotations_trainval2017.zip and the images of 2017 from "
            "https://cocodataset.org/#download and unpack both, the inner panoptic_*2017.zip too"
        )
    for path in (metadata.image_root, metadata.panoptic_json, metadata.panoptic_root):
        if not os.path.exists(path):
            raise DatasetError(
                f"{name}: {path} does not exist; {prepare}, or set DETECTRON2_DATASETS to the folder that holds coco/. "
                "To try things out without it: panoptic data synthesize --layout coco --output DIR"
            )
    return load_records(metadata.panoptic_json, metadata.image_root, metadata.panoptic_root, metadata.as_dict())
