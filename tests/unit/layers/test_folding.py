"""Folded models give what the models give; what cannot be folded safely stays."""

from __future__ import annotations

import copy

import panoptic_deeplab_models as models
import pytest
import torch
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import build_backbone, build_model
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.config import get_cfg
from panoptic_plugin.layers.folding import NORMS, fold_batch_norm


def shake(model: nn.Module) -> nn.Module:
    """Statistics and affine values as training leaves them; variances far from 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, NORMS):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.2)
    return model.eval()


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


def assert_folds(model: nn.Module, x: torch.Tensor, left: int = 0):
    shake(model)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    assert num_norms(folded) == left
    with torch.no_grad():
        expected, found = model(x), folded(x)
    for a, b in zip(_tensors(found), _tensors(expected), strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _tensors(output):
    return list(output.values()) if isinstance(output, dict) else [output]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm, FrozenBatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
def test_each_norm_after_a_convolution_with_and_without_bias(norm, bias):
    assert_folds(nn.Sequential(nn.Conv2d(4, 6, 3, bias=bias), norm(6), nn.ReLU()), torch.randn(1, 4, 7, 7))


def test_the_norm_of_detectron2s_convolution_and_its_activation():
    conv = Conv2d(4, 8, 3, groups=4, norm=nn.BatchNorm2d(8), activation=F.relu)
    assert_folds(conv, torch.randn(2, 4, 7, 7))
    assert_folds(DepthwiseSeparableConv2d(4, 6, norm1="BN", norm2="BN"), torch.randn(2, 4, 7, 7))


def test_epsilon_counts():
    norm = nn.BatchNorm2d(4, eps=0.5)
    assert_folds(nn.Sequential(nn.Conv2d(4, 4, 1), norm), torch.randn(1, 4, 3, 3))


class PreActivation(nn.Module):
    """A norm before the convolution of the same number: nothing to fold."""

    def __init__(self):
        super().__init__()
        self.bn1, self.conv1, self.bn2, self.conv2 = (
            nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        )  # fmt: skip

    def forward(self, x):
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


def shared_convolution() -> nn.Module:
    conv = nn.Conv2d(4, 4, 1)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(4)), nn.Sequential(conv, nn.BatchNorm2d(4)))


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (PreActivation(), 2),
        (shared_convolution(), 2),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(Conv2d(4, 4, 1, activation=F.relu), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 1), nn.BatchNorm2d(4)), 1),
    ],
    ids=["norm first", "shared convolution", "activation between", "activation within", "another convolution"],
)
def test_what_is_no_pair_stays(model, left):
    assert_folds(model, torch.randn(1, 4, 5, 5), left)


def test_norms_without_running_statistics_stay():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert type(fold_batch_norm(model)[1]) is nn.BatchNorm2d


@pytest.mark.parametrize(("name", "depth"), [("d2_hrnet", 4), ("d2_xception_65", 0)])
def test_every_norm_of_our_backbones_is_folded(name, depth):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.NORM = name, "BN"
    cfg.MODEL.HRNET.MODULES, cfg.MODEL.HRNET.BLOCKS = [1, 1, 1], 1
    if depth:
        cfg.MODEL.RESNETS.DEPTH = depth
    assert_folds(build_backbone(cfg), torch.randn(1, 3, 32, 64))


@pytest.mark.parametrize("dsconv", [False, True])
def test_every_norm_of_panoptic_deeplab_is_folded(dsconv):
    model = shake(build_model(models.tiny_config(dsconv=dsconv)))
    folded = fold_batch_norm(model)
    assert num_norms(folded) == 0
    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        for found, expected in zip(folded.predict(images), model.predict(images), strict=True):
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
