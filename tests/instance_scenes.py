"""Small scenes with instances, by the ids of Cityscapes (objects, groups, void), and predictions of them."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Instances

from panoptic_plugin.evaluation.ground_truth import Truth
from panoptic_plugin.structures import number_pixels

CLASSES = ["road", "person", "car", "bus"]
LABEL_IDS = [7, 24, 26, 28]
THINGS = frozenset({1, 2, 3})
DIVISOR = 1000


def instance_ids(rng, *, height=96, width=160):
    """int (H, W): road, persons, cars, a group of cars, a small group of persons, void, a caravan, a small person."""
    ids = np.full((height, width), 7)
    for value in [24001, 24002, 24003, 26001, 26002, 26, 4, 29001]:
        y, x = rng.integers(0, height - 25), rng.integers(0, width - 25)
        ids[y : y + rng.integers(12, 25), x : x + rng.integers(12, 25)] = value
    ids[2:6, 2:7] = 24009
    ids[-6:-1, 2:7] = 24
    return ids


def truth_of(image_id, ids):
    """What the panoptic JSON and PNG of a scene hold: void and caravans are in no segment."""
    segments, listed = [], []
    for value in np.unique(ids).tolist():
        label = value if value < 1000 else value // 1000
        if label in LABEL_IDS:
            listed.append(value)
            crowd = int(value < 1000 and label != 7)
            category = LABEL_IDS.index(label)
            segments.append({"id": len(listed), "category_id": category, "iscrowd": crowd, "dataset_id": value})
    return Truth(image_id, number_pixels(ids, listed), segments)


def masks_output(rng, ids, *, copies=1):
    """A model's output of masks that may overlap, be empty, lie on void or groups; some objects are found twice."""
    masks, classes, scores = [], [], []
    for value in np.unique(ids[ids >= 1000]).tolist() + [26, 24, 4]:
        if value // 1000 == 29 or rng.random() < 0.2:
            continue
        for _ in range(1 + int(rng.random() < 0.3)):
            masks.append(np.roll(ids == value, rng.integers(0, 4), axis=int(rng.integers(0, 2))))
            classes.append(LABEL_IDS.index(value // 1000) if value >= 1000 else 2)
            scores.append(round(float(rng.random()), 1))  # many equal scores
    masks.append(np.zeros(ids.shape, bool))
    classes.append(1)
    scores.append(0.99)
    masks, classes, scores = masks * copies, classes * copies, scores * copies
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    instances.pred_classes, instances.scores = torch.tensor(classes), torch.tensor(scores, dtype=torch.float64)
    return {"instances": instances}


def map_output(rng, ids):
    """A model's output of a panoptic map whose things are also ``instances``, as Panoptic-DeepLab gives them."""
    category = np.array([{7: 0, 24: 1, 26: 2, 28: 3}.get(v if v < 1000 else v // 1000, 0) for v in range(30000)])[ids]
    panoptic = np.roll(category * DIVISOR + np.where(category > 0, ids % 1000 + 1, 0), 2, axis=1)
    panoptic[:3] = -1
    segments = [
        {"id": one, "category_id": one // DIVISOR, "isthing": one >= DIVISOR, "score": None}
        for one in np.unique(panoptic[panoptic >= 0]).tolist()
    ]
    things = [segment for segment in segments if segment["isthing"]]
    for segment in things:
        segment["score"] = float(rng.random())
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy(np.stack([panoptic == segment["id"] for segment in things]))
    instances.pred_classes = torch.tensor([segment["category_id"] for segment in things])
    instances.scores = torch.tensor([segment["score"] for segment in things], dtype=torch.float32)
    return {
        "panoptic_seg": (torch.from_numpy(panoptic), None),
        "segments_info": segments,
        "instances": instances,
    }
