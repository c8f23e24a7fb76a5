"""EfficientPS with a SOLOv2 head learns two generated street scenes by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from panoptic_plugin.config import get_cfg
from panoptic_plugin.data.cityscapes_layout import CITYSCAPES_CATEGORIES
from panoptic_plugin.data.synthetic import make_scene
from panoptic_plugin.data.targets_instances import InstanceTargets
from panoptic_plugin.evaluation.pq import accumulate, average, count_image

pytestmark = pytest.mark.slow
ITERATIONS = 70
# Scenes whose things have 240 pixels and more; smaller ones are a few pixels at the masks' stride of 4.
SCENES = (36, 38)
THINGS = tuple(range(11, 19))


def _config():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "PluginEfficientPS"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_timm_two_way_fpn_backbone", 0
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_b0"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "EfficientPSSemSegHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM, cfg.MODEL.SEM_SEG_HEAD.NORM = 64, "BN"
    cfg.MODEL.TWO_WAY_FPN.OUT_CHANNELS = 128
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    solo = cfg.MODEL.SOLOV2
    solo.CHANNELS, solo.NUM_CONVS, solo.NUM_KERNELS, solo.MASK_CHANNELS = 64, 2, 64, 64
    # A quarter of the ranges for images of 512 x 1024, and masks of a pixel and more.
    solo.SCALE_RANGES = [[1, 14], [7, 28], [14, 56], [28, 112], [56, 224]]
    solo.STRIDES = [1, 1, 1, 1, 1]
    cfg.MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT = 16
    cfg.DATASETS.TRAIN = ("cityscapes_fine_panoptic_train",)
    return cfg


def _sample(number: int) -> dict:
    """A scene with its targets; ``segments`` lists the labelled ones, and ``ids`` int32 (H, W) is 0 elsewhere."""
    scene = make_scene(0, "train", number, 128, 256, odd_sizes=False)
    category_of = {category["name"]: contiguous for contiguous, category in enumerate(CITYSCAPES_CATEGORIES)}
    segments = [
        {"id": place, "category_id": category_of[one.name], "iscrowd": int(one.is_crowd)}
        for place, one in enumerate(scene.segments)
        if one.name in category_of and (scene.ids == place).any()
    ]
    ids = np.where(np.isin(scene.ids, [one["id"] for one in segments]), scene.ids, 0)
    targets = InstanceTargets(ignore_label=255, thing_ids=THINGS)(ids, segments)
    image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
    return {"image": image, "ids": ids, "segments": segments, **targets}


def test_two_scenes_are_learnt():
    torch.manual_seed(0)
    model = build_model(_config()).train()
    batch = [_sample(number) for number in SCENES]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3  # so few iterations are not enough for running statistics at 0.1
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=ITERATIONS)
    for _ in range(ITERATIONS):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 15.0)
        optimizer.step()
        warm_up.step()
        decay.step()
    model.eval()
    with torch.no_grad():
        results = model(batch)
    counts = accumulate(
        count_image(
            one["ids"], one["segments"], result["panoptic_seg"][0].numpy(), result["segments_info"], true_void=0
        )
        for one, result in zip(batch, results, strict=True)
    )
    pq = average(counts, range(19))
    assert pq is not None
    assert pq.pq > 0.85, {category: found._asdict() for category, found in counts.items()}
