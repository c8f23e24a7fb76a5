"""A small registered dataset in COCO's panoptic format, with crowd, void and a matching set of predictions."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from panoptic_plugin.config import get_cfg
from panoptic_plugin.structures import ids_to_rgb

CLASSES = ["road", "sky", "person", "car", "absent"]
THINGS = (2, 3, 4)


def truth_map(rng, height=24, width=40):
    """(COCO ids, segments): two stuff halves, two persons, a car, a crowd of cars, a void corner."""
    ids = np.where(np.arange(height)[:, None] < 10, 20, 10) * np.ones((1, width), int)
    segments = [(10, 10, 0), (20, 20, 0)]
    for segment_id, category, crowd in ((3001, 30, 0), (3002, 30, 0), (4001, 40, 0), (4000, 40, 1)):
        y, x = int(rng.integers(0, height - 9)), int(rng.integers(0, width - 9))
        ids[y : y + 8, x : x + 8] = segment_id
        segments.append((segment_id, category, crowd))
    ids[-4:, -6:] = 0
    present = set(np.unique(ids).tolist())
    return ids, [{"id": i, "category_id": c, "iscrowd": k} for i, c, k in segments if i in present]


def output_of(contiguous, instance_of, rng, label_divisor=1000):
    """A model's output dict for contiguous categories and instance numbers (H, W)."""
    panoptic = np.where(contiguous < 0, -1, contiguous * label_divisor + instance_of)
    ids = [int(i) for i in np.unique(panoptic) if i >= 0 and i // label_divisor in THINGS]
    instances = Instances(contiguous.shape)
    instances.pred_masks = torch.from_numpy(
        np.stack([panoptic == i for i in ids]) if ids else np.zeros((0, *contiguous.shape), bool)
    )
    instances.pred_classes = torch.tensor([i // label_divisor for i in ids], dtype=torch.int64)
    instances.scores = torch.from_numpy(rng.random(len(ids)).round(3))
    instances.pred_boxes = Boxes(torch.zeros(len(ids), 4))
    one_hot = np.eye(len(CLASSES) + 1)[np.where(contiguous < 0, len(CLASSES), contiguous)][..., :-1]
    return {
        "sem_seg": torch.from_numpy(one_hot.transpose(2, 0, 1).astype(np.float32)),
        "panoptic_seg": (torch.from_numpy(panoptic.astype(np.int64)), None),
        "instances": instances,
    }


@pytest.fixture
def scene_set(tmp_path):
    """Namespace: name, cfg, inputs, outputs (imperfect predictions), truth (file name -> ids), folder."""
    rng = np.random.default_rng(3)
    root = tmp_path / "gt"
    root.mkdir()
    annotations, inputs, outputs, truth = [], [], [], {}
    contiguous_of = {10: 0, 20: 1, 30: 2, 40: 3, 50: 4}
    for number in range(5):
        ids, segments = truth_map(rng)
        name = f"{number:03d}.png"
        Image.fromarray(ids_to_rgb(ids)).save(root / name)
        truth[name] = ids
        annotations.append({"image_id": number + 7, "file_name": name, "segments_info": segments})
        inputs.append({"image_id": number + 7, "file_name": f"{number:03d}.jpg", "height": 24, "width": 40})
        category = np.zeros(ids.shape, int) - 1
        instance = np.zeros(ids.shape, int)
        for position, segment in enumerate(segments):
            category[ids == segment["id"]] = contiguous_of[segment["category_id"]]
            instance[ids == segment["id"]] = position if segment["category_id"] >= 30 else 0
        shift = number % 3
        outputs.append(output_of(np.roll(category, shift, 1), np.roll(instance, shift, 1), rng))
    categories = [{"id": 10 * (c + 1), "name": n, "isthing": int(c in THINGS)} for c, n in enumerate(CLASSES)]
    (tmp_path / "gt.json").write_text(json.dumps({"annotations": annotations, "categories": categories, "images": []}))
    name = f"scenes_{uuid.uuid4().hex}"
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "gt.json"),
        panoptic_root=str(root),
        thing_dataset_id_to_contiguous_id={30: 2, 40: 3, 50: 4},
        stuff_dataset_id_to_contiguous_id={10: 0, 20: 1},
        thing_classes=CLASSES,
        stuff_classes=CLASSES,
        ignore_label=255,
        label_divisor=1000,
        evaluator_type="coco_panoptic_seg",
    )
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.DATASETS.TEST = (name,)
    yield SimpleNamespace(name=name, cfg=cfg, inputs=inputs, outputs=outputs, truth=truth, folder=tmp_path)
    MetadataCatalog.pop(name, None)
