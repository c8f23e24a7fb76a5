"""HRNet-OCR as a head of Detectron2's SemanticSegmentor."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from semantic_branches import NUM_CLASSES, ocr_config, randomise
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.losses.semantic import SEMANTIC_LOSSES

FEATURES = ["res2", "res3", "res4", "res5"]


def segmentor_config(**keys):
    cfg = ocr_config()
    model = cfg.MODEL
    model.META_ARCHITECTURE, model.BACKBONE.NAME = "SemanticSegmentor", "d2_hrnet"
    model.RESNETS.DEPTH, model.RESNETS.OUT_FEATURES = 2, FEATURES
    model.HRNET.MODULES, model.HRNET.BLOCKS = [1, 1, 1], 1
    model.SEM_SEG_HEAD.NAME, model.SEM_SEG_HEAD.IN_FEATURES = "PluginHRNetOCRHead", FEATURES
    for key, value in keys.items():
        model.SEM_SEG_HEAD[key] = value
    return cfg


@pytest.mark.parametrize("loss_type", SEMANTIC_LOSSES)
def test_trains_with_each_loss(loss_type):
    model = build_model(segmentor_config(LOSS_TYPE=loss_type)).train()
    batch = [
        {"image": torch.randint(0, 256, (3, *size)).byte(), "sem_seg": torch.randint(0, NUM_CLASSES, size)}
        for size in ((32, 64), (30, 50))
    ]
    losses = model(batch)
    assert sorted(losses) == ["loss_sem_seg", "loss_sem_seg_aux"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_losses_are_weighted():
    head = build_model(segmentor_config(LOSS_TYPE="cross_entropy", LOSS_WEIGHT=2.0)).sem_seg_head.train()
    features = {f"res{i + 2}": torch.randn(2, 2 << i, 16 >> i, 16 >> i) for i in range(4)}
    randomise(head)
    head.attention.fuse[-1].p = 0.0
    targets = torch.randint(0, NUM_CLASSES, (2, 64, 64))
    output = super(type(head), head).forward(features)
    logits, auxiliary = (
        F.interpolate(x, size=(64, 64), mode="bilinear", align_corners=True) for x in (output.logits, output.auxiliary)
    )
    _, losses = head(features, targets)
    torch.testing.assert_close(losses["loss_sem_seg"], 2 * F.cross_entropy(logits, targets))
    torch.testing.assert_close(losses["loss_sem_seg_aux"], 0.8 * F.cross_entropy(auxiliary, targets))


def test_one_batch_is_learnt():
    torch.manual_seed(0)
    model = build_model(segmentor_config(LOSS_TYPE="ohem", OHEM_MIN_KEPT=100)).train()
    labels = torch.randint(0, NUM_CLASSES, (2, 4)).repeat_interleave(16, 0).repeat_interleave(16, 1)
    batch = [{"image": (labels * 50).expand(3, -1, -1).byte(), "sem_seg": labels}]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    history = []
    for _ in range(25):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
    for name in ("loss_sem_seg", "loss_sem_seg_aux"):
        assert history[-1][name] < 0.6 * history[0][name]


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 64), (45, 33)])
def test_results_have_the_asked_size(size):
    model = build_model(segmentor_config()).eval()
    sample = {"image": torch.randint(0, 256, (3, *size)).byte(), "height": 50, "width": 70}
    assert model([sample])[0]["sem_seg"].shape == (NUM_CLASSES, 50, 70)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("LOSS_TYPE", "focal", "LOSS_TYPE"), ("OHEM_MIN_KEPT", -1, "OHEM_MIN_KEPT"), ("IN_FEATURES", ["res9"], "res9")],
)
def test_mistakes_name_the_key(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build_model(segmentor_config(**{key: value}))


@pytest.mark.parametrize("name", ["PluginDeepLabV3PlusHead", "PluginPanopticDeepLabSemSegHead"])
@pytest.mark.parametrize("loss_type", ["ohem", "rmi"])
def test_deeplab_heads_take_the_losses_too(name, loss_type):
    cfg = segmentor_config(LOSS_TYPE=loss_type, OHEM_THRESH=0.3, OHEM_MIN_KEPT=7)
    head = cfg.MODEL.SEM_SEG_HEAD
    head.PROJECT_CHANNELS, head.ASPP_CHANNELS, head.ASPP_DILATIONS = [4, 4, 4], 8, [1, 2, 3]
    head.CONVS_DIM, head.HEAD_CHANNELS, head.COMMON_STRIDE = 8, 6, 4
    cfg.INPUT.CROP.ENABLED = False
    shapes = {f"res{i + 2}": ShapeSpec(channels=2 << i, stride=4 << i) for i in range(4)}
    made = SEM_SEG_HEADS_REGISTRY.get(name)(cfg, shapes)
    assert made.loss.loss_type == loss_type and (made.loss.ohem_threshold, made.loss.ohem_min_kept) == (0.3, 7)
    features = {f"res{i + 2}": torch.randn(2, 2 << i, 16 >> i, 16 >> i) for i in range(4)}
    made(features, torch.randint(0, NUM_CLASSES, (2, 64, 64)))[1]["loss_sem_seg"].backward()
