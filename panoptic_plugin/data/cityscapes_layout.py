"""Scenes in Cityscapes' exact layout: what ``leftImg8bit`` and ``gtFine`` hold, and the panoptic set made of it.

``gtFine/cityscapes_panoptic_SPLIT.json`` and its PNG folder are what cityscapesscripts' ``createPanopticImgs`` would
write, its file name of an image that does not exist included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import id2label, labels, name2label
from PIL import Image

from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.data.synthetic import Scene
from panoptic_plugin.structures import ids_to_rgb

FOLDER = "cityscapes"
CITIES = {"train": ("arden", "birchfield", "cedarton"), "val": ("dunmore", "elmbridge")}
SPLITS = {"train": "train", "val": "val"}
FIRST_INSTANCE = 1000  # of class c the instances are c * 1000, c * 1000 + 1, ...; below 1000 an id is a class alone
CITYSCAPES_CATEGORIES = [
    {
        "id": label.id,
        "name": label.name,
        "color": list(label.color),
        "supercategory": label.category,
        "isthing": int(label.hasInstances),
    }
    for label in labels
    if not label.ignoreInEval
]


def instance_ids(scene: Scene) -> np.ndarray:
    """uint16 (H, W) as in ``*_instanceIds.png``: class * 1000 + instance, or the class alone for stuff and crowds."""
    table = np.zeros(len(scene.segments), dtype=np.uint16)
    count: dict[str, int] = {}
    for number, segment in enumerate(scene.segments):
        table[number] = label_id = name2label[segment.name].id
        if segment.is_thing and not segment.is_crowd:
            table[number] = label_id * FIRST_INSTANCE + count.setdefault(segment.name, 0)
            count[segment.name] += 1
    return table[scene.ids]


def write_scene(root: Path, split: str, index: int, scene: Scene) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one scene's picture and labels.

    Args:
        root: the ``cityscapes`` folder.
        split: "train" or "val".
        index: which scene of the split.

    Returns:
        Its entries for ``images`` and ``annotations`` of the panoptic JSON.
    """
    city = CITIES[split][index % len(CITIES[split])]
    name = f"{city}_{index:06d}_000019"
    images = root / "leftImg8bit" / split / city
    truth = root / "gtFine" / split / city
    for folder in (images, truth):
        folder.mkdir(parents=True, exist_ok=True)
    save_png(scene.image, images / f"{name}_leftImg8bit.png")
    ids = instance_ids(scene)
    save_png(ids, truth / f"{name}_gtFine_instanceIds.png")
    classes = np.where(ids >= FIRST_INSTANCE, ids // FIRST_INSTANCE, ids).astype(np.uint8)
    save_png(classes, truth / f"{name}_gtFine_labelIds.png")
    save_png(_lookup("trainId")[classes].astype(np.uint8), truth / f"{name}_gtFine_labelTrainIds.png")
    save_png(_lookup("color")[classes].astype(np.uint8), truth / f"{name}_gtFine_color.png")
    polygons = json.dumps(_polygons(ids))
    (truth / f"{name}_gtFine_polygons.json").write_text(polygons, encoding="utf-8")
    return panoptic_records(ids, name, root / "gtFine" / f"cityscapes_panoptic_{split}")


def panoptic_records(ids: np.ndarray, name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the panoptic PNG of an instanceIds map and return its two JSON records.

    Args:
        ids: int (H, W) as in ``*_instanceIds.png``.
        name: ``CITY_SEQUENCE_FRAME``, the image's id.
        folder: where the PNG goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    segments, hidden = [], []
    for value, shape in measure_segments(ids).items():
        label = id2label[value if value < FIRST_INSTANCE else value // FIRST_INSTANCE]
        if label.ignoreInEval:
            hidden.append(value)
            continue
        is_crowd = int(label.hasInstances and value < FIRST_INSTANCE)
        segments.append(
            {"id": value, "category_id": label.id, "area": shape.area, "bbox": shape.bbox, "iscrowd": is_crowd}
        )
    file_name = f"{name}_gtFine_panoptic.png"
    save_png(ids_to_rgb(np.where(np.isin(ids, hidden), 0, ids)), folder / file_name)
    height, width = ids.shape
    image = {"id": name, "width": width, "height": height, "file_name": f"{name}_gtFine_leftImg8bit.png"}
    return image, {"image_id": name, "file_name": file_name, "segments_info": segments}


def write_split(root: Path, split: str, records: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Write ``gtFine/cityscapes_panoptic_SPLIT.json``, records in the order of their city and name."""
    ordered = sorted(records, key=lambda pair: pair[0]["id"])
    content = {
        "images": [image for image, _ in ordered],
        "annotations": [annotation for _, annotation in ordered],
        "categories": CITYSCAPES_CATEGORIES,
    }
    text = json.dumps(content, sort_keys=True, indent=4)
    (root / "gtFine" / f"cityscapes_panoptic_{split}.json").write_text(text, encoding="utf-8")


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 or uint16 pixels as a PNG, compressed fast rather than small."""
    Image.fromarray(pixels).save(path, compress_level=1)


def _lookup(attribute: str) -> np.ndarray:
    """Table from label id to another attribute; -1, which Cityscapes uses for its licence plates, is not drawn."""
    return np.array([getattr(label, attribute) for label in sorted(labels, key=lambda x: x.id) if label.id >= 0])


def _polygons(ids: np.ndarray) -> dict[str, Any]:
    """``*_polygons.json``: the outlines of each segment; crowds are called "...group"."""
    objects = []
    for value in np.unique(ids):
        label = id2label[int(value) if value < FIRST_INSTANCE else int(value) // FIRST_INSTANCE]
        name = f"{label.name}group" if label.hasInstances and value < FIRST_INSTANCE else label.name
        contours, _ = cv2.findContours((ids == value).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        objects += [{"label": name, "polygon": contour[:, 0].tolist()} for contour in contours if len(contour) > 2]
    return {"imgHeight": ids.shape[0], "imgWidth": ids.shape[1], "objects": objects}
