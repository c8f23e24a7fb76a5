"""A joint network learns two images by heart: classes, centers and offsets, both branches at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from joint_models import THINGS, joint_config

from panoptic_plugin.data.targets import PanopticDeepLabTargets

pytestmark = pytest.mark.slow
ITERATIONS = 150
BOXES = ((4, 6, 20, 24, THINGS[0]), (10, 34, 28, 56, THINGS[1]))
# Category -> id of its one segment.
TRUE = {0: 1, BOXES[0][-1]: 2, BOXES[1][-1]: 3}


def sample(shift: int) -> dict[str, torch.Tensor]:
    ids = np.ones((32, 64), dtype=np.int32)
    image = torch.full((3, 32, 64), 40, dtype=torch.uint8)
    segments = [{"id": 1, "category_id": 0, "iscrowd": 0}]
    for number, (top, left, bottom, right, category) in enumerate(BOXES, start=2):
        ids[top:bottom, left + shift : right + shift] = number
        image[number - 2, top:bottom, left + shift : right + shift] = 220
        segments.append({"id": number, "category_id": category, "iscrowd": 0})
    targets = PanopticDeepLabTargets(ignore_label=255, thing_ids=THINGS, sigma=3, ignore_stuff_in_offset=True)
    made = {name: value for name, value in targets(ids, segments).items() if name != "center_points"}
    return {"image": image, "ids": torch.from_numpy(ids), **made}


def test_one_batch_is_learnt():
    cfg = joint_config(INJECT="stem_add")
    cfg.MODEL.INS_EMBED_HEAD.ASPP_DROPOUT = 0.0
    cfg.MODEL.PANOPTIC_DEEPLAB.STUFF_AREA = 1
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.semantic_branch.dropout.p = 0.0
    batch = [sample(0), sample(4)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=ITERATIONS)
    for _ in range(ITERATIONS):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        results = model(batch)
    ious: dict[int, list[float]] = {}
    for one, result in zip(batch, results, strict=True):
        panoptic, segments = result["panoptic_seg"][0], result["segments_info"]
        # One segment of each class: all match, and PQ is the mean over the classes of their mean IoU.
        assert sorted(segment["category_id"] for segment in segments) == sorted(TRUE)
        for segment in segments:
            found, true = panoptic == segment["id"], one["ids"] == TRUE[segment["category_id"]]
            iou = float((found & true).sum() / (found | true).sum())
            assert iou > 0.5
            ious.setdefault(segment["category_id"], []).append(iou)
    assert np.mean([np.mean(values) for values in ious.values()]) > 0.9
