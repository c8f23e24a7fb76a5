"""Normalisation layers by name: Detectron2's table with an epsilon, and a group norm for every channel number."""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from torch import nn

from panoptic_plugin.errors import ConfigError

NORMS = ("BN", "SyncBN", "FrozenBN", "GN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN")
GROUPS = 32  # as in Detectron2's "GN" and in the paper (https://arxiv.org/abs/1803.08494, table 3)


def make_norm(name: str, channels: int, *, eps: float = 1e-5) -> nn.Module:
    """The normalisation layer ``name`` for feature maps (N, ``channels``, H, W).

    Args:
        name: one of :data:`NORMS`.
        channels: number of channels.
        eps: added to the variance in the batch norms. GN keeps its own 1e-5.

    ``GN`` has 32 groups where 32 divides ``channels``; otherwise the number of groups is the greatest common divisor
    of both (8 for Xception's 728 channels, 16 for 48), where Detectron2's own table stops with an error.

    Raises:
        ConfigError: an unknown name, or an empty one: these networks do not train without normalisation.
    """
    if name not in NORMS:
        raise ConfigError(f"the norm is {name!r}, expected one of {', '.join(NORMS)}; set MODEL.RESNETS.NORM")
    if name == "GN":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    norm = get_norm(name, channels)
    norm.eps = eps
    if name == "FrozenBN":  # it starts as the identity, which depends on eps
        norm.running_var.fill_(1.0 - eps)
    return norm


def replace_sync_batch_norm(module: nn.Module, *, distributed: bool) -> nn.Module:
    """Exchange each ``nn.SyncBatchNorm`` for what computes the same where it does not work or is of no use.

    Keys, parameters and buffers stay the same tensors. An activation that the layer holds, as timm's do, stays in it.

    Args:
        module: the network.
        distributed: Detectron2's NaiveSyncBatchNorm, which trains on CPUs in several processes too; otherwise plain
            ``nn.BatchNorm2d``, for one process.

    Returns:
        ``module`` itself, changed in place; or the replacement, where it is a ``nn.SyncBatchNorm``.
    """
    if isinstance(module, nn.SyncBatchNorm):
        return _without_sync(module, distributed)
    for name, child in module.named_children():
        replacement = replace_sync_batch_norm(child, distributed=distributed)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


class NaiveSyncBatchNormAct(NaiveSyncBatchNorm):
    """Batch normalisation over all processes with ``drop`` and ``act`` after it, which whoever makes it sets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


class FrozenBatchNormAct(FrozenBatchNorm2d):
    """A fixed batch normalisation with ``drop`` and ``act`` after it, which whoever makes it sets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Exchange each batch norm for a fixed one with the same statistics, keys and, where it holds one, activation.

    Detectron2's converter drops the activation that timm's norms hold; timm's own, and torchvision's, give float32
    where autocast gave less.

    Returns:
        ``module`` itself, changed in place; or the replacement, where it is a batch norm.
    """
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return _frozen(module)
    for name, child in module.named_children():
        replacement = freeze_batch_norm(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


def _frozen(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.Module:
    has_activation = hasattr(norm, "act")
    frozen = (FrozenBatchNormAct if has_activation else FrozenBatchNorm2d)(norm.num_features, norm.eps)
    if has_activation:
        frozen.act, frozen.drop = norm.act, norm.drop
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, name)
        if value is not None:
            setattr(frozen, name, value.detach().clone())
    return frozen.train(norm.training)


def _without_sync(norm: nn.SyncBatchNorm, distributed: bool) -> nn.Module:
    replacement = _plain(norm, distributed)
    if hasattr(norm, "act"):  # timm's SyncBatchNormAct
        replacement.act, replacement.drop = norm.act, norm.drop
    replacement.weight, replacement.bias = norm.weight, norm.bias
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(replacement, buffer, getattr(norm, buffer))
    return replacement.train(norm.training)


def _plain(norm: nn.SyncBatchNorm, distributed: bool) -> nn.Module:
    arguments: tuple[Any, ...] = (norm.num_features, norm.eps, norm.momentum)
    has_activation = hasattr(norm, "act")
    if distributed:
        # stats_mode "N" weighs the processes by their number of images, as nn.SyncBatchNorm does for equal sizes.
        return (NaiveSyncBatchNormAct if has_activation else NaiveSyncBatchNorm)(*arguments, stats_mode="N")
    if has_activation:
        from timm.layers import BatchNormAct2d

        return BatchNormAct2d(*arguments)
    return nn.BatchNorm2d(*arguments)


@torch.no_grad()
def init_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """He initialisation for a convolution that is followed by a norm and a ReLU (https://arxiv.org/abs/1502.01852).

    The fan is counted within one group, so a depthwise 3x3 convolution has a fan of 9. A bias becomes zero.
    """
    if conv.weight.is_meta:  # there is nothing to fill, and PyTorch takes milliseconds over it
        return conv
    fan_out = conv.out_channels // conv.groups * math.prod(conv.kernel_size)
    nn.init.normal_(conv.weight, std=math.sqrt(2.0 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
