from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.norm import NORMS, freeze_batch_norm, init_conv, make_norm, replace_sync_batch_norm


@pytest.mark.parametrize(
    "name, kind",
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        ("naiveSyncBN", NaiveSyncBatchNorm),
        ("naiveSyncBN_N", NaiveSyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
    ],
)
def test_each_name_gives_its_layer_for_its_channels(name, kind):
    norm = make_norm(name, 64).eval()
    assert isinstance(norm, kind)
    assert norm(torch.rand(2, 64, 3, 3)).shape == (2, 64, 3, 3)


@pytest.mark.parametrize("name", [name for name in NORMS if name != "GN"])
def test_epsilon_reaches_every_batch_norm(name):
    assert make_norm(name, 8, eps=1e-3).eps == 1e-3


def test_frozen_batch_norm_starts_as_the_identity_for_any_epsilon():
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(make_norm("FrozenBN", 4, eps=1e-2)(x), x)


@pytest.mark.parametrize("channels, groups", [(64, 32), (728, 8), (48, 16), (18, 2), (3, 1)])
def test_group_norm_takes_the_largest_common_divisor_where_32_does_not_divide(channels, groups):
    assert make_norm("GN", channels).num_groups == groups


@pytest.mark.parametrize("name", ["", "bn", "LN"])
def test_unknown_norm_names_the_key_and_the_choices(name):
    with pytest.raises(ConfigError, match=r"(?s)BN, SyncBN.*MODEL.RESNETS.NORM"):
        make_norm(name, 8)


@pytest.mark.parametrize(("distributed", "kind"), [(True, NaiveSyncBatchNorm), (False, nn.BatchNorm2d)])
def test_sync_batch_norm_is_replaced_with_the_same_tensors(distributed, kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.SyncBatchNorm(4, eps=1e-3))).eval()
    keys, x = list(model.state_dict()), torch.randn(2, 3, 5, 5)
    model[1][0].running_var.fill_(2.0)
    expected, weight = model(x), model[1][0].weight
    assert replace_sync_batch_norm(model, distributed=distributed) is model
    assert type(model[1][0]) is kind and model[1][0].weight is weight
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("name", ["BN", "SyncBN", "naiveSyncBN"])
def test_frozen_norms_have_the_tensors_of_the_trained_ones(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(make_norm(name, 4, eps=1e-3))).eval()
    for tensor in (model[1][0].weight.data, model[1][0].bias.data, model[1][0].running_var):
        tensor.uniform_(0.5, 2)
    keys, x = set(model.state_dict()), torch.randn(2, 3, 5, 5)
    expected = model(x)
    frozen = freeze_batch_norm(model)
    assert type(frozen[1][0]) is FrozenBatchNorm2d
    assert set(frozen.state_dict()) == keys - {"1.0.num_batches_tracked"}
    torch.testing.assert_close(frozen(x), expected)
    torch.testing.assert_close(frozen.train()(x), expected)


def test_depthwise_convolution_is_initialised_by_the_fan_of_one_group():
    conv = init_conv(nn.Conv2d(4096, 4096, 3, groups=4096))
    assert conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.02)
    assert not conv.bias.any()
