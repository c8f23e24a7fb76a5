"""Batch norms of a trained network multiplied into the convolutions before them.

In evaluation a batch norm is ``y = x * scale + shift`` with one number of each a channel, and so is part of the
convolution that made ``x``. Without it each feature map is read and written once less.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn

CONVOLUTIONS = (nn.Conv2d, Conv2d)
ACTIVATED_NORMS = ("BatchNormAct2d", "SyncBatchNormAct", "NaiveSyncBatchNormAct", "FrozenBatchNormAct")
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm, FrozenBatchNorm2d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of ``model`` for evaluation, in which convolutions do what the batch norms after them did.

    A norm is taken to follow a convolution directly where it is

    * the ``norm`` of Detectron2's ``Conv2d``;
    * the next module in a ``nn.Sequential``;
    * the next child of another module, and named as it is with "bn" for "conv" (``conv1``, ``bn1``);
    * the next child of one of timm's modules, and one of timm's norms that hold an activation, which stays.

    Everything else stays as it is: other kinds of norms and convolutions (subclasses too), norms without running
    statistics, and convolutions that stand in several places. The model itself is not touched; a folded copy's weights
    have other names and values, so it is not for checkpoints.

    Returns:
        The copy, in evaluation mode; results differ by rounding.
    """
    folded = copy.deepcopy(model).eval()
    uses = Counter(id(module) for _, module in folded.named_modules(remove_duplicate=False))
    for holder, name, conv in list(_normalised(folded)):
        norm = getattr(holder, name)
        if uses[id(conv)] == uses[id(norm)] == 1 and _fits(conv, norm):
            _fold(conv, norm)
            setattr(holder, name, None if holder is conv else _what_remains(norm))
    return folded


def _what_remains(norm: nn.Module) -> nn.Module:
    act = getattr(norm, "act", None) if _holds_activation(norm) else None  # its drop does nothing in evaluation
    return act if isinstance(act, nn.Module) else nn.Identity()


def _holds_activation(module: nn.Module) -> bool:
    """Whether it is a norm of timm that is followed by an activation within itself, or ours of that kind."""
    return type(module).__name__ in ACTIVATED_NORMS and hasattr(module, "act")


def _normalised(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """(module that holds a norm, the norm's name there, the convolution before it)."""
    for module in model.modules():
        if type(module) in CONVOLUTIONS and getattr(module, "norm", None) is not None:
            yield module, "norm", module  # type: ignore[misc]
        for (first, conv), (second, norm) in pairwise(module.named_children()):
            follows = isinstance(module, nn.Sequential) or first.replace("conv", "bn") == second != first
            follows |= type(module).__module__.startswith("timm.") and _holds_activation(norm)
            plain = getattr(conv, "norm", None) is None and getattr(conv, "activation", None) is None
            if _is_convolution(conv) and plain and follows:
                yield module, second, conv  # type: ignore[misc]


def _is_convolution(module: nn.Module) -> bool:
    # timm's pads as TensorFlow does, by the size of the image, and is one otherwise.
    return type(module) in CONVOLUTIONS or type(module).__qualname__ == "Conv2dSame"


def _fits(conv: nn.Conv2d, norm: nn.Module) -> bool:
    if norm._forward_hooks or norm._forward_pre_hooks:  # somebody reads what comes in or out
        return False
    mean = norm.running_mean if type(norm) in NORMS or _holds_activation(norm) else None
    return isinstance(mean, torch.Tensor) and len(mean) == conv.out_channels


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Change weight and bias of ``conv``, in float64 on the way. What ``norm`` lacks counts as 1 and 0."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    for bias, factor in ((norm.bias, 1.0), (conv.bias, scale)):
        if bias is not None:
            shift = shift + bias.double() * factor
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
