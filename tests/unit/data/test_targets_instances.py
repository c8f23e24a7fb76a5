"""Training targets of EfficientPS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from PIL import Image

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.catalog import register_panoptic_dataset
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.data.targets_instances import InstanceTargets, efficientps

IDS = np.array([[7, 7, 0, 9, 9], [7, 70000, 70000, 9, 5], [5, 5, 70000, 70000, 5]], dtype=np.int32)
SEGMENTS = [
    {"id": 3, "category_id": 1, "iscrowd": 0},  # without a pixel
    {"id": 70000, "category_id": 4, "iscrowd": 0},
    {"id": 5, "category_id": 1, "iscrowd": 1},
    {"id": 9, "category_id": 0, "iscrowd": 0},
    {"id": 7, "category_id": 1, "iscrowd": 0},
]


def test_objects_are_things_with_pixels_that_are_no_crowd():
    targets = InstanceTargets(ignore_label=255, thing_ids=[4, 1])(IDS, SEGMENTS)
    assert targets["instance_classes"].tolist() == [1, 0]
    assert targets["instance_index"].dtype == torch.int16
    assert targets["instance_index"].tolist() == [[2, 2, 0, 0, 0], [2, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert targets["sem_seg"].tolist() == [[1, 1, 255, 0, 0], [1, 4, 4, 0, 1], [1, 1, 4, 4, 1]]


def test_crowd_is_ignored_in_the_categories_where_wanted():
    targets = InstanceTargets(ignore_label=255, thing_ids=[1, 4], ignore_crowd_in_semantic=True)(IDS, SEGMENTS)
    assert (targets["sem_seg"].numpy()[IDS == 5] == 255).all()


def test_image_without_segments():
    targets = InstanceTargets(ignore_label=255, thing_ids=[1])(np.zeros((2, 3), dtype=np.int32), [])
    assert targets["instance_classes"].shape == (0,)
    assert targets["instance_classes"].dtype == torch.int64
    assert not targets["instance_index"].any()
    assert (targets["sem_seg"] == 255).all()


def test_from_config():
    cfg = get_cfg()
    cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC = True
    generator = efficientps(cfg, Metadata(ignore_label=200, thing_dataset_id_to_contiguous_id={3: 1, 9: 4}))
    assert (generator.ignore_label, generator.class_of, generator.ignore_crowd_in_semantic) == (200, {1: 0, 4: 1}, True)


@pytest.fixture
def dataset(tmp_path: Path):
    """One image whose three channels hold its own panoptic ids, so that any turn of both can be compared."""
    ids = np.zeros((20, 30), dtype=np.int64)
    ids[:, :12], ids[4:9, 3:8], ids[10:16, 20:26], ids[2:6, 14:18] = 11, 22, 33, 44
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(rgb).save(tmp_path / folder / "one.png")
    segments = [(11, 1, 0), (22, 2, 0), (33, 3, 0), (44, 2, 1)]
    content = {
        "images": [{"id": 1, "file_name": "one.png", "height": 20, "width": 30}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "one.png",
                "segments_info": [
                    {"id": one, "category_id": category, "iscrowd": crowd, "area": int((ids == one).sum()),
                     "bbox": [0, 0, 1, 1]} for one, category, crowd in segments
                ],
            }
        ],
        "categories": [{"id": 1, "name": "floor", "isthing": 0}, {"id": 2, "name": "a", "isthing": 1},
                       {"id": 3, "name": "b", "isthing": 1}],
    }  # fmt: skip
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    name = f"instance_targets_{tmp_path.name}"
    register_panoptic_dataset(
        name,
        image_root=str(tmp_path / "images"),
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(tmp_path / "labels"),
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_image_categories_and_objects_are_turned_alike(dataset: str):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.INPUT.TARGET_GENERATOR = "efficientps"
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (20,), 30
    cfg.INPUT.CROP.ENABLED = False
    record = DatasetCatalog.get(dataset)[0]
    mapper = PanopticMapper(cfg, is_train=True)
    np.random.seed(0)
    category_of = {11: 0, 22: 1, 33: 2, 44: 1, 0: 255}
    object_of = {22: 1, 33: 2}
    flipped = set()
    for _ in range(12):
        sample = mapper(record)
        ids = sample["image"][0].long()
        flipped.add(bool(ids[0, 0] == 0))
        for number in (0, 11, 22, 33, 44):
            where = ids == number
            assert where.any()
            assert (sample["sem_seg"][where] == category_of[number]).all()
            assert (sample["instance_index"][where] == object_of.get(number, 0)).all()
        assert sample["instance_classes"].tolist() == [0, 1]
    assert flipped == {True, False}
