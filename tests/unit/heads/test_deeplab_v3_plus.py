"""DeepLabV3+ as a head of Detectron2's SemanticSegmentor."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model
from panoptic_deeplab_models import tiny_config

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.losses.hard_pixel_mining import hard_pixel_mining

SHAPES = {
    "res2": ShapeSpec(channels=6, stride=4),
    "res3": ShapeSpec(channels=8, stride=8),
    "res5": ShapeSpec(channels=10, stride=32),
}


def make_head(name="PluginDeepLabV3PlusHead", **keys):
    cfg = tiny_config(crop=keys.pop("crop", (64, 128)))
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"MODEL.SEM_SEG_HEAD.{key}", value)])
    return SEM_SEG_HEADS_REGISTRY.get(name)(cfg, SHAPES)


def features(height=64, width=128, num_images=2):
    return {
        name: torch.randn(num_images, shape.channels, -(-height // shape.stride), -(-width // shape.stride))
        for name, shape in SHAPES.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("dsconv", [False, True])
def test_equal_to_detectron2s_head(dsconv):
    ours, theirs = (
        make_head(name, USE_DEPTHWISE_SEPARABLE_CONV=dsconv).eval()
        for name in ("PluginDeepLabV3PlusHead", "DeepLabV3PlusHead")
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    inputs = features(128, 256)
    torch.testing.assert_close(ours(inputs)[0], theirs(inputs)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_k", [0.1, 1.0])
def test_loss_top_k_is_honoured(top_k):
    head, inputs = make_head(LOSS_TOP_K=top_k), features()
    targets = torch.randint(0, 8, (2, 64, 128))
    torch.nn.init.normal_(head.predictor.weight)
    logits = head.eval()(inputs)[0]
    expected = hard_pixel_mining(logits, targets, ignore_value=255, top_k=top_k)
    torch.testing.assert_close(head.losses(head.layers(inputs), targets)["loss_sem_seg"], expected)


@pytest.mark.parametrize("loss_type", ["cross_entropy", "hard_pixel_mining"])
def test_trains_with_each_loss_on_a_size_that_no_stride_divides(loss_type):
    head = make_head(LOSS_TYPE=loss_type, crop=(50, 90))
    _, losses = head(features(50, 90), torch.randint(0, 8, (2, 50, 90)))
    losses["loss_sem_seg"].backward()
    assert head.predictor.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_half_precision_features_give_float32_logits():
    head = make_head().eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = head(features())
    assert logits.dtype == torch.float32


def test_semantic_segmentor_trains_and_predicts():
    cfg = tiny_config(crop=(32, 64))
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PluginDeepLabV3PlusHead"
    model = build_model(cfg)
    assert type(model) is META_ARCH_REGISTRY.get("SemanticSegmentor")
    image = torch.randint(0, 255, (3, 32, 64))
    losses = model.train()([{"image": image, "sem_seg": torch.randint(0, 8, (32, 64))}] * 2)
    assert torch.isfinite(losses["loss_sem_seg"])
    with torch.no_grad():
        result = model.eval()([{"image": torch.randint(0, 255, (3, 45, 77)), "height": 90, "width": 154}])
    assert result[0]["sem_seg"].shape == (8, 90, 154)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("IN_FEATURES", ["res2", "res4"], r"MODEL.SEM_SEG_HEAD.IN_FEATURES .*res4.*\['res2', 'res3', 'res5'\]"),
        ("PROJECT_CHANNELS", [16], "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS has 1 entries, expected 2"),
        ("ASPP_DILATIONS", [6, 12], "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS has 2 entries, expected 3"),
        ("COMMON_STRIDE", 8, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE is 8, .* res2, has stride 4"),
        ("LOSS_TYPE", "cross_entropi", "MODEL.SEM_SEG_HEAD.LOSS_TYPE .* Did you mean 'cross_entropy'"),
        ("LOSS_TOP_K", 20.0, "MODEL.SEM_SEG_HEAD.LOSS_TOP_K is 20.0"),
    ],
)
def test_wrong_keys_explain_themselves(key, value, expected):
    with pytest.raises(ConfigError, match=expected):
        make_head(**{key: value})


def test_relative_crops_explain_themselves():
    cfg = tiny_config()
    cfg.INPUT.CROP.TYPE = "relative_range"
    with pytest.raises(ConfigError, match="INPUT.CROP.TYPE is 'relative_range'"):
        SEM_SEG_HEADS_REGISTRY.get("PluginDeepLabV3PlusHead")(cfg, SHAPES)
