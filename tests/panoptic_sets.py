"""Small panoptic sets on disk for tests of what reads or writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.structures import ids_to_rgb, rgb_to_ids

CATEGORIES = [
    {"id": 3, "name": "ground", "isthing": 0, "color": [90, 90, 90]},
    {"id": 7, "name": "cell", "isthing": 1, "color": [200, 0, 0]},
    {"id": 21, "name": "wall", "isthing": 0, "color": [0, 0, 200]},
]


def read_ids(path: Path) -> np.ndarray:
    """int32 (H, W) ids of a panoptic PNG."""
    return rgb_to_ids(np.array(Image.open(path)))


def write_set(
    root: Path,
    maps: list[tuple[np.ndarray, dict[int, tuple[int, int]]]],
    categories: list[dict[str, Any]] | None = None,
) -> Path:
    """Write ``root/panoptic.json``, ``root/panoptic`` and ``root/images``; returns the JSON's path.

    Args:
        maps: per image the ids (H, W) and id -> (category id, iscrowd).
    """
    for name in ("panoptic", "images"):
        (root / name).mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories or CATEGORIES}
    for number, (ids, segments) in enumerate(maps, start=1):
        name = f"image_{number}"
        Image.fromarray(np.full((*ids.shape, 3), number, np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(ids_to_rgb(ids)).save(root / "panoptic" / f"{name}.png")
        shapes = measure_segments(ids)
        infos = [
            {"id": id_, "category_id": category, "iscrowd": crowd, "area": shapes[id_].area, "bbox": shapes[id_].bbox}
            for id_, (category, crowd) in segments.items()
            if id_ in shapes
        ]
        height, width = ids.shape
        content["images"].append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        content["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": infos})
    path = root / "panoptic.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def assert_consistent(json_path: Path, panoptic_root: Path) -> dict[str, Any]:
    """JSON and PNGs must name the same ids with the same areas and boxes; returns the content."""
    content = json.loads(json_path.read_text(encoding="utf-8"))
    known = {category["id"] for category in content["categories"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        ids = read_ids(panoptic_root / annotation["file_name"])
        assert ids.shape == sizes[annotation["image_id"]]
        shapes = {id_: shape for id_, shape in measure_segments(ids).items() if id_}
        assert set(shapes) == {segment["id"] for segment in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            assert segment["category_id"] in known
            assert (segment["area"], segment["bbox"]) == (shapes[segment["id"]].area, shapes[segment["id"]].bbox)
    return content
