"""Layers of EfficientPS's semantic head: parameters, reach, wiring, sizes, loss."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from torch import nn
from torch.nn import functional as F

from panoptic_plugin import get_cfg
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.systems.efficientps.semantic_head import DensePredictionCell, EfficientPSSemSegHead

LEVELS = ("p2", "p3", "p4", "p5")
DILATIONS = [
    [(1, 6)],
    [(1, 6), (1, 1)],
    [(1, 6), (6, 21)],
    [(1, 6), (18, 15)],
    [(1, 6), (18, 15), (6, 3)],
]


def _shapes(channels: int) -> dict[str, ShapeSpec]:
    return {name: ShapeSpec(channels=channels, stride=2**level) for level, name in enumerate((*LEVELS, "p6"), start=2)}


def _head(width: int = 6, channels: int = 4, num_classes: int = 5, **arguments) -> EfficientPSSemSegHead:
    torch.manual_seed(0)
    defaults = {"input_shape": _shapes(width), "in_features": LEVELS}
    return EfficientPSSemSegHead(**{**defaults, "channels": channels, "num_classes": num_classes, **arguments})


def _features(height: int, width: int, channels: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(
            2, channels, -(-height // 2**level), -(-width // 2**level), generator=generator
        ).requires_grad_()
        for level, name in enumerate(LEVELS, start=2)
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_default_widths():
    with torch.device("meta"):
        head = _head(256, 128, 19)
    assert [_count(head.lsfe4), _count(head.lsfe8)] == [53_888] * 2
    assert [_count(head.dpc16), _count(head.dpc32)] == [508_416] * 2
    assert [_count(head.correct16), _count(head.correct8)] == [36_096] * 2
    assert _count(head.classifier) == 9_747
    assert _count(head) == 1_206_547


def test_every_convolution_is_normed_and_leaky_but_the_classifier():
    head = _head()
    convolutions = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    assert [conv for conv in convolutions if conv.bias is not None] == [head.classifier]
    for conv in convolutions[:-1]:
        assert isinstance(conv.norm, nn.BatchNorm2d) and conv.norm.eps == 1e-5
        torch.testing.assert_close(conv.activation(torch.tensor([-1.0, 2.0])), torch.tensor([-0.01, 2.0]))


@pytest.mark.parametrize("branch", range(5))
def test_reach_of_a_pixel_through_each_branch(branch: int):
    cell = DensePredictionCell(1, 1).eval()
    for parameter in cell.parameters():
        nn.init.constant_(parameter, 1.0)  # nothing cancels out
    cell.project.weight.data.zero_()[:, branch] = 1.0
    image = torch.zeros(1, 1, 61, 101, requires_grad=True)
    cell(image)[0, 0, 30, 50].backward()
    taps = [list(product((-rows, 0, rows), (-columns, 0, columns))) for rows, columns in DILATIONS[branch]]
    expected = {(30 + sum(y for y, _ in steps), 50 + sum(x for _, x in steps)) for steps in product(*taps)}
    assert {tuple(pixel) for pixel in image.grad[0, 0].nonzero().tolist()} == expected


@pytest.mark.parametrize("size", [(64, 96), (100, 170), (33, 65)])
def test_logits_are_those_of_the_wiring_written_out(size: tuple[int, int]):
    head = _head().eval()
    features = _features(*size)

    def up(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)

    a, b = head.dpc32(features["p5"]), head.dpc16(features["p4"])
    x = up(head.correct16.convs(b + up(a, b)), features["p3"])
    c = head.lsfe8(features["p3"]) + x
    d = head.lsfe4(features["p2"]) + up(head.correct8.convs(c), features["p2"])
    expected = head.classifier(torch.cat([d, up(c, d), up(b, d), up(a, d)], dim=1))
    found = head(features)
    assert found.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("share", "heard"),
    [(0, {"p2", "p3", "p4", "p5"}), (1, {"p3", "p4", "p5"}), (2, {"p4"}), (3, {"p5"})],
)
def test_what_each_quarter_of_the_classifier_hears(share: int, heard: set[str]):
    head = _head().eval()
    mask = torch.zeros_like(head.classifier.weight)
    mask.chunk(4, dim=1)[share].fill_(1.0)
    head.classifier.weight.data *= mask
    features = _features(64, 64)
    head(features).square().sum().backward()
    assert {name for name, feature in features.items() if feature.grad.any()} == heard


def test_twice_the_side_is_a_bilinear_enlargement_of_the_coarse_vote():
    head = _head().eval()
    head.classifier.weight.data[:, : 3 * 4] = 0
    features = _features(128, 128)
    vote = F.conv2d(head.dpc32(features["p5"]), head.classifier.weight[:, 12:], head.classifier.bias)
    expected = F.interpolate(vote, scale_factor=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(features), expected, rtol=1e-5, atol=1e-5)


def test_loss_enlarges_the_logits_and_is_the_mean_of_the_worst_quarter_of_each_image():
    head = _head(loss_weight=2.0)
    logits, targets = torch.randn(2, 5, 8, 10), torch.randint(0, 5, (2, 30, 37))
    targets[0, :20] = 255
    large = F.interpolate(logits, size=(30, 37), mode="bilinear", align_corners=False)
    pixels = F.cross_entropy(large, targets, ignore_index=255, reduction="none").flatten(1)
    worst = -(-30 * 37 // 4)
    expected = 2.0 * pixels.sort(descending=True).values[:, :worst].mean()
    losses = head.losses(logits, targets)
    assert set(losses) == {"loss_sem_seg"}
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    batch = _head(ohem_scope="batch").losses(logits, targets)["loss_sem_seg"]
    torch.testing.assert_close(batch, pixels.flatten().sort(descending=True).values[: 30 * 37 // 2].mean())


def test_float32_loss_under_autocast_with_gradients_everywhere():
    head, features = _head(), _features(64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
        loss = head.losses(logits, torch.randint(0, 5, (2, 64, 96)))["loss_sem_seg"]
        half = head.losses(logits.bfloat16(), torch.randint(0, 5, (2, 64, 96)))["loss_sem_seg"]
    assert loss.dtype == half.dtype == logits.dtype == torch.float32
    loss.backward()
    gradients = [parameter.grad for parameter in head.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_nothing_but_ignored_pixels():
    head, features = _head(), _features(64, 64)
    loss = head.losses(head(features), torch.full((2, 64, 64), 255))["loss_sem_seg"]
    loss.backward()
    assert loss == 0 and all(not parameter.grad.any() for parameter in head.parameters())


def test_built_from_a_config():
    cfg = get_cfg()
    section = cfg.MODEL.SEM_SEG_HEAD
    section.NAME, section.IN_FEATURES = "EfficientPSSemSegHead", ["p2", "p3", "p4", "p5"]
    section.NUM_CLASSES, section.CONVS_DIM, section.NORM, section.IGNORE_VALUE = 7, 8, "GN", 254
    section.OHEM_RATIO, section.OHEM_SCOPE, section.LOSS_WEIGHT = 0.5, "batch", 0.25
    head = build_sem_seg_head(cfg, _shapes(6))
    assert head(_features(64, 64)).shape == (2, 7, 16, 16)
    assert (head.num_classes, head.ignore_value, head.ohem_ratio, head.ohem_scope) == (7, 254, 0.5, "batch")
    assert head.loss_weight == 0.25 and isinstance(head.lsfe4[0].depthwise.norm, nn.GroupNorm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": ("p3", "p4", "p5", "p6")}, r"IN_FEATURES.*p3.*strides 4, 8, 16, 32.*p2 \(stride 4\)"),
        ({"in_features": ("p2", "p3", "p4", "p7")}, "IN_FEATURES.*p7"),
        ({"ohem_ratio": 0.0}, "OHEM_RATIO is 0.0"),
        ({"ohem_scope": "pixel"}, "OHEM_SCOPE is 'pixel', expected one of image, batch"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        _head(**arguments)
