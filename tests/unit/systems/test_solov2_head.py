"""Layers of the SOLOv2 head: parameters, shapes, coordinates."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.systems.efficientps.solov2_head import MaskBranch, SOLOv2Head, with_coordinates

LEVELS = ("p2", "p3", "p4", "p5", "p6")
GRIDS = (40, 36, 24, 16, 12)


def _shapes(channels: int) -> dict[str, ShapeSpec]:
    return {name: ShapeSpec(channels=channels, stride=2**level) for level, name in enumerate(LEVELS, start=2)}


def _head(width: int = 256, **arguments) -> SOLOv2Head:
    defaults = {"in_features": LEVELS, "mask_in_features": LEVELS[:4], "num_classes": 8, "num_grids": GRIDS}
    return SOLOv2Head(input_shape=_shapes(width), **{**defaults, **arguments})


def _tiny(**arguments) -> SOLOv2Head:
    torch.manual_seed(0)
    sizes = {"channels": 8, "num_convs": 1, "num_kernels": 8, "mask_channels": 8, "num_grids": (4, 4, 3, 2, 1)}
    return _head(8, **{**sizes, **arguments})


def _features(height: int, width: int, channels: int = 8, device: str = "cpu") -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(2, channels, -(-height // 2**level), -(-width // 2**level), device=device)
        for level, name in enumerate(LEVELS, start=2)
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 17_749_256 + 1_659_392),
        ({"channels": 256, "num_convs": 2, "num_kernels": 128}, 4_322_184),
        ({"conv": "dwsep"}, 3_331_508),
    ],
)
def test_parameters(arguments, expected):
    with torch.device("meta"):
        head = _head(**arguments)
    assert _count(head) == expected


def test_parameters_of_the_parts():
    with torch.device("meta"):
        head = _head()
    assert _count(head.category_tower) + _count(head.category_predictor) == 8_298_504
    assert _count(head.kernel_tower) + _count(head.kernel_predictor) == 9_450_752
    assert _count(head.mask_branch) == 1_659_392


def test_shapes_of_the_whole_head():
    with torch.device("meta"):
        head = _head()
    outputs = head(_features(512, 1024, 256, "meta"))
    assert outputs.category_logits.shape == (2, 3872, 8)
    assert outputs.kernels.shape == (2, 3872, 256)
    assert outputs.mask_features.shape == (2, 256, 128, 256)


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 160)])
def test_cells_do_not_depend_on_the_size_of_the_image(size):
    outputs = _tiny()(_features(*size))
    assert outputs.category_logits.shape == (2, 16 + 16 + 9 + 4 + 1, 8)
    assert outputs.mask_features.shape == (2, 8, size[0] // 4, size[1] // 4)


def test_cells_are_numbered_level_by_level_and_row_by_row():
    head, features = _tiny(), _features(64, 64)
    outputs = head(features)
    halved = torch.nn.functional.interpolate(features["p2"], scale_factor=0.5, mode="bilinear")
    cells = torch.nn.functional.interpolate(halved, size=(4, 4), mode="bilinear")
    logits = head.category_predictor(head.category_tower(cells))
    torch.testing.assert_close(outputs.category_logits[:, 4 * 2 + 3], logits[:, :, 2, 3])
    enlarged = torch.nn.functional.interpolate(features["p6"], size=features["p5"].shape[-2:], mode="bilinear")
    cells = torch.nn.functional.interpolate(enlarged, size=(1, 1), mode="bilinear")
    logits = head.category_predictor(head.category_tower(cells))
    torch.testing.assert_close(outputs.category_logits[:, -1], logits[:, :, 0, 0])


def test_coordinates_run_from_minus_one_to_one_x_first():
    located = with_coordinates(torch.zeros(1, 3, 5, 9))
    assert located.shape == (1, 5, 5, 9)
    assert located[0, 3, 2].tolist() == pytest.approx([-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1])
    assert located[0, 4, :, 0].tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1])


def test_only_the_kernels_know_where_they_are():
    head, features = _tiny(), _features(64, 64)
    before = head(features)
    head.kernel_tower[0].weight.data[:, -2:] += 1
    after = head(features)
    assert head.category_tower[0].in_channels == 8
    assert torch.equal(before.category_logits, after.category_logits)
    assert not torch.equal(before.kernels, after.kernels)


def test_all_parameters_get_a_gradient():
    head = _tiny()
    outputs = head(_features(64, 64))
    (outputs.category_logits.sum() + outputs.kernels.sum() + outputs.mask_features.sum()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_classes_start_at_the_prior_probability():
    outputs = _tiny(prior_prob=0.01)(_features(64, 64))
    assert outputs.category_logits.sigmoid().mean().item() == pytest.approx(0.01, abs=1e-4)


def test_only_the_coarsest_level_of_the_mask_branch_knows_where_it_is():
    branch = MaskBranch(8, 8, 8, 4, "GN")
    assert [level[0].in_channels for level in branch.levels] == [8, 8, 8, 10]
    assert [len(level) for level in branch.levels] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_features": ("p2", "p9")}, "IN_FEATURES is ['p2', 'p9'], but the backbone has the features ['p2', 'p3'"),
        ({"num_grids": (4, 3)}, "NUM_GRIDS is [4, 3], expected one number for each of IN_FEATURES"),
        ({"mask_in_features": ("p3", "p4")}, "have the strides [8, 16], expected [4, 8]"),
        ({"conv": "deformable"}, "CONV is 'deformable', expected one of standard, dwsep"),
    ],
)
def test_levels_that_do_not_fit(arguments, words):
    with pytest.raises(ConfigError) as caught:
        _tiny(**arguments)
    assert words in str(caught.value)
