"""OCR against loops over pixels and classes, and its numbers of parameters."""

from __future__ import annotations

import math

import pytest
import torch
from semantic_branches import NUM_CLASSES, ocr_branch, ocr_config
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.folding import fold_batch_norm
from panoptic_plugin.layers.ocr import ObjectAttention, gather_regions
from panoptic_plugin.layers.ocr_layers import OCRLayers
from panoptic_plugin.systems.joint.semantic_branch import build_semantic_branch


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("width", "trunk", "head"),
    [(18, 9_562_260, 2_518_558), (32, 29_305_536, 3_648_358), (48, 65_325_120, 5_047_558)],
)
def test_parameters_of_the_published_networks_to_the_digit(width, trunk, head):
    cfg = ocr_config(num_classes=19, ATTENTION_CHANNELS=256)
    cfg.MODEL.SEM_SEG_HEAD.OCR.MID_CHANNELS, cfg.MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS = 512, 256
    backbone = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.BACKBONE
    backbone.DEPTH, backbone.MODULES, backbone.BLOCKS = width, [1, 4, 3], 4
    with torch.device("meta"):
        branch = build_semantic_branch(cfg)
    assert (count(branch.backbone), count(branch.ocr), count(branch.multi_scale)) == (trunk, head, 1_770_752)


@pytest.mark.parametrize("shape", [(4, 6), (5, 3), (1, 1)])
def test_gather_equals_a_loop_and_its_shares_sum_to_one(shape):
    features, soft = torch.randn(2, 3, *shape), torch.randn(2, NUM_CLASSES, *shape)
    found = gather_regions(features, soft)
    for image in range(2):
        for label in range(NUM_CLASSES):
            scores = [math.exp(value) for value in soft[image, label].flatten().tolist()]
            mean = sum(s / sum(scores) * x for s, x in zip(scores, features[image].flatten(1).T, strict=True))
            torch.testing.assert_close(found[image, :, label], mean)
    torch.testing.assert_close(gather_regions(torch.ones(2, 3, *shape), soft), torch.ones(2, 3, NUM_CLASSES))


def test_regions_of_many_pixels_are_exact_under_autocast():
    features, soft = torch.rand(1, 4, 256, 512).half(), torch.zeros(1, 2, 256, 512)
    with torch.autocast("cpu", dtype=torch.float16):
        found = gather_regions(features, soft)
    torch.testing.assert_close(found, features.float().mean((2, 3)).unsqueeze(-1).expand(1, 4, 2), rtol=1e-5, atol=0)


@torch.no_grad()
def test_attention_equals_a_loop():
    attention = ObjectAttention(6, 4).eval()
    features, regions = torch.randn(2, 6, 3, 5), torch.randn(2, 6, NUM_CLASSES)
    query, keys, values = (
        attention.query(features),
        attention.key(regions.unsqueeze(-1)).squeeze(-1),
        attention.value(regions.unsqueeze(-1)).squeeze(-1),
    )
    found = attention.attend(features, regions)
    for image in range(2):
        for y in range(3):
            for x in range(5):
                scores = [
                    math.exp(float(query[image, :, y, x] @ keys[image, :, c]) / math.sqrt(4))
                    for c in range(NUM_CLASSES)
                ]
                mean = sum(s / sum(scores) * values[image, :, c] for c, s in enumerate(scores))
                torch.testing.assert_close(found[image, :, y, x], mean)
    context = attention.up(found)
    # The context comes first.
    expected = attention.fuse(torch.cat([context, features], dim=1))
    torch.testing.assert_close(attention(features, regions), expected)


@torch.no_grad()
def test_attention_to_equal_regions_gives_their_value():
    attention = ObjectAttention(6, 4).eval()
    region = torch.randn(1, 6, 1)
    found = attention.attend(torch.randn(1, 6, 4, 4), region.expand(1, 6, NUM_CLASSES))
    torch.testing.assert_close(found, attention.value(region.unsqueeze(-1)).expand(1, 4, 4, 4))


@pytest.mark.parametrize("size", [(64, 64), (33, 65), (50, 31)])
def test_sizes_of_any_parity(size):
    branch = ocr_branch().eval()
    output = branch.ocr(branch.backbone(torch.randn(1, 3, *size)))
    height, width = (math.ceil(side / 4) for side in size)
    assert output.logits.shape == output.auxiliary.shape == (1, NUM_CLASSES, height, width)
    assert output.features.shape == (1, 8, height, width)


def test_gradient_of_the_logits_reaches_the_auxiliary_output():
    branch = ocr_branch(TRAIN_SCALES=[1.0], TEST_SCALES=[1.0])
    branch(torch.randn(2, 3, 32, 32)).logits.square().sum().backward()
    assert branch.ocr.regions[-1].weight.grad.abs().sum() > 0


def test_align_corners_is_a_choice():
    outputs = {}
    for align in (True, False):
        branch = ocr_branch(ALIGN_CORNERS=align).eval()
        outputs[align] = branch(torch.ones(1, 3, 64, 64).cumsum(-1)).logits
    assert not torch.equal(outputs[True], outputs[False])


@torch.no_grad()
def test_every_norm_of_the_branch_is_folded():
    branch = ocr_branch(TEST_SCALES=[0.5, 1.0]).eval()
    folded = fold_batch_norm(branch)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(1, 3, 32, 64)
    found, expected = folded(images).logits, branch(images).logits
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_features_that_the_backbone_lacks_are_named():
    with pytest.raises(ConfigError, match="res6"):
        OCRLayers({}, in_features=["res6"], num_classes=2)
