"""A small panoptic dataset on disk, as many tests of this folder change it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_plugin.structures import ids_to_rgb

CATEGORIES = [
    {"id": 7, "name": "cell", "isthing": 1, "color": [200, 0, 0]},
    {"id": 3, "name": "ground", "isthing": 0},
    {"id": 21, "name": "wall", "isthing": 0},
]


class TinyDataset:
    """Three 12x20 images; ``content`` is the JSON, ``write()`` puts a changed one on disk."""

    def __init__(self, root: Path):
        self.root, self.images, self.labels = root, root / "images", root / "labels"
        self.json = root / "panoptic.json"
        for folder in (self.images, self.labels):
            folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        self.content = {"images": [], "annotations": [], "categories": [dict(c) for c in CATEGORIES]}
        for image_id in (4, 5, 6):
            name = f"picture_{image_id}"
            Image.fromarray(rng.integers(0, 255, (12, 20, 3), dtype=np.uint8)).save(self.images / f"{name}.png")
            ids = np.full((12, 20), 70000, dtype=np.int32)
            ids[2:6, 3:9], ids[6:11, 9:19], ids[0] = 5, 6, 0
            Image.fromarray(ids_to_rgb(ids)).save(self.labels / f"{name}.png")
            segments = [
                {"id": 70000, "category_id": 3, "iscrowd": 0, "area": 146, "bbox": [0, 1, 20, 11]},
                {"id": 5, "category_id": 7, "iscrowd": 0, "area": 24, "bbox": [3, 2, 6, 4]},
                {"id": 6, "category_id": 7, "iscrowd": 0, "area": 50, "bbox": [9, 6, 10, 5]},
            ]
            self.content["images"].append({"id": image_id, "file_name": f"{name}.png", "height": 12, "width": 20})
            self.content["annotations"].append(
                {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}
            )
        self.write()

    def write(self) -> None:
        self.json.write_text(json.dumps(self.content))

    @property
    def paths(self) -> dict[str, str]:
        return {
            "image_root": str(self.images),
            "panoptic_json": str(self.json),
            "panoptic_root": str(self.labels),
        }


@pytest.fixture
def tiny(tmp_path) -> TinyDataset:
    return TinyDataset(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _forget_datasets():
    """Take out of the catalogs what a test registered."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
