"""Scenes in COCO's layout: JPEGs, panoptic JSON and PNGs, instance JSON, with COCO's own category ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from pycocotools import mask as rle

from panoptic_plugin.data.cityscapes_layout import save_png
from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.data.synthetic import Scene
from panoptic_plugin.structures import ids_to_rgb

FOLDER = "coco"
SPLITS = {"train": "train2017", "val": "val2017"}
FIRST_IMAGE_ID = {"train": 1, "val": 500_001}
# The classes of a scene in COCO's words; what is not here (the camera's car, bins, lamp posts) is void.
COCO_NAMES = {
    "person": "person", "bicycle": "bicycle", "car": "car", "truck": "truck", "road": "road",
    "building": "building-other-merged", "vegetation": "tree-merged", "terrain": "grass-merged",
    "sidewalk": "pavement-merged", "sky": "sky-other-merged",
}  # fmt: skip
CATEGORIES = {category["name"]: category for category in COCO_CATEGORIES}


def panoptic_ids(scene: Scene) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """A scene's label map as COCO has it.

    Returns:
        int32 (H, W), each segment's id a 24-bit colour near its category's, 0 for void; and id -> (category id,
        iscrowd).
    """
    table = np.zeros(len(scene.segments), dtype=np.int32)
    segments: dict[int, tuple[int, int]] = {}
    for number, segment in enumerate(scene.segments):
        if segment.name not in COCO_NAMES:
            continue
        category = CATEGORIES[COCO_NAMES[segment.name]]
        red, green, blue = category["color"]
        colour = max(1, red + 256 * green + 65536 * blue)
        while colour in segments:
            colour = (colour + 16 * 256 + 3) % (1 << 24) or 1
        table[number] = colour
        segments[colour] = (category["id"], int(segment.is_crowd))
    return table[scene.ids], segments


def write_scene(root: Path, split: str, index: int, scene: Scene) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one scene's JPEG and panoptic PNG; returns its entries for ``images`` and ``annotations``.

    The annotation also holds ``masks``, run-length codes by segment id, from which the instance JSON is made.
    """
    image_id = FIRST_IMAGE_ID[split] + index
    images, labels = root / SPLITS[split], root / f"panoptic_{SPLITS[split]}"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(images / f"{image_id:012d}.jpg", quality=95)
    ids, segments = panoptic_ids(scene)
    save_png(ids_to_rgb(ids), labels / f"{image_id:012d}.png")
    shapes = measure_segments(ids)
    infos = [
        {"id": id_, "category_id": category, "iscrowd": crowd, "area": shapes[id_].area, "bbox": shapes[id_].bbox}
        for id_, (category, crowd) in segments.items()
    ]
    height, width = ids.shape
    image = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height, "width": width}
    masks = {id_: _encode(ids == id_) for id_ in segments}
    return image, {"image_id": image_id, "file_name": f"{image_id:012d}.png", "segments_info": infos, "masks": masks}


def write_split(root: Path, split: str, records: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Write ``annotations/panoptic_SPLIT.json`` and ``annotations/instances_SPLIT.json``."""
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    images = [image for image, _ in records]
    things = {category["id"] for category in COCO_CATEGORIES if category["isthing"]}
    panoptic, instances = [], []
    for _, annotation in records:
        panoptic.append({key: value for key, value in annotation.items() if key != "masks"})
        for segment in annotation["segments_info"]:
            if segment["category_id"] in things:
                mask = annotation["masks"][segment["id"]]
                own = {"id": len(instances) + 1, "image_id": annotation["image_id"], "segmentation": mask}
                instances.append({**segment, **own})
    keys = ("id", "name", "isthing", "color")
    categories = [{key: category[key] for key in keys} for category in COCO_CATEGORIES]
    thing_categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    _write(folder / f"panoptic_{SPLITS[split]}.json", images, panoptic, categories)
    _write(folder / f"instances_{SPLITS[split]}.json", images, instances, thing_categories)


def _write(path: Path, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def _encode(mask: np.ndarray) -> dict[str, Any]:
    code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
