"""Encoders by the names of timm (https://github.com/huggingface/pytorch-image-models): which there are, what they give.

timm is imported inside the functions: it takes seconds, and most trainings do not need it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from panoptic_plugin.errors import CheckpointError, ConfigError
from panoptic_plugin.layers.norm import freeze_batch_norm

STRIDES = (4, 8, 16, 32)
# Any multiple of the largest stride must do: the sides differ, and neither is the size that transformers are made for.
PROBE_SIZE = (64, 96)


@dataclass(frozen=True)
class Encoder:
    """What timm says of an encoder.

    Attributes:
        is_efficientnet: whether it is built of EfficientNet's blocks and has a convolution after the last one.
        indices: the features of the strides 4, 8, 16 and 32 among all of its features.
        channels: theirs.
        modules: the modules that they are the output of, by name ("blocks.1").
        channels_last: features have the shape (N, H, W, channels).
        arguments: what timm needs to be told for images of any size.
    """

    is_efficientnet: bool
    indices: tuple[int, ...]
    channels: tuple[int, ...]
    modules: tuple[str, ...]
    channels_last: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)


def check_name(name: str) -> None:
    """Raise ConfigError where timm has no encoder of that name, or no weights of what stands after its dot."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"the closest are {', '.join(close)}" if close else "timm.list_models() lists all"
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have; {hint}")
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}: {error} Names with weights: {known}") from None


@functools.cache
def look_at(name: str) -> Encoder:
    """What the encoder of that name gives; it is built without memory for its weights.

    Raises:
        ConfigError: an unknown name, or an encoder that lacks a stride or takes images of one size only.
    """
    from timm.models.efficientnet import EfficientNetFeatures

    check_name(name)
    probe, arguments = _probe(name)
    found = probe.feature_info.get_dicts(keys=["index", "num_chs", "module", "reduction"])
    last = {level["reduction"]: level for level in found}
    if not set(STRIDES) <= last.keys():
        raise _no_pyramid(name, str(list(last)))
    levels = [last[stride] for stride in STRIDES]
    return Encoder(
        is_efficientnet=isinstance(probe, EfficientNetFeatures),
        indices=tuple(level["index"] for level in levels),
        channels=tuple(level["num_chs"] for level in levels),
        modules=tuple(level["module"] for level in levels),
        channels_last=str(getattr(getattr(probe, "output_fmt", None), "value", "NCHW")) == "NHWC",
        arguments=arguments,
    )


def _probe(name: str) -> tuple[Any, dict[str, Any]]:
    """The encoder on the meta device, and the arguments by which it takes images of :data:`PROBE_SIZE`."""
    from timm.models.efficientnet import EfficientNetFeatures

    try:
        probe = _on_meta(name)
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError):
        raise _no_pyramid(name, "of no pyramid") from None
    if isinstance(probe, EfficientNetFeatures) or not set(STRIDES) <= set(probe.feature_info.reduction()):
        return probe, {}
    reason = _refusal(probe)
    if not reason:
        return probe, {}
    # Swin and its like have windows of a fixed size, not images, but refuse other images unless told not to.
    arguments = {"strict_img_size": False}
    with contextlib.suppress(TypeError):
        probe = _on_meta(name, **arguments)
        if not _refusal(probe):
            return probe, arguments
    raise ConfigError(
        f"MODEL.TIMM.NAME is {name!r}, which does not take images of every size ({reason}); expected an encoder "
        "without a size of its own, for example resnet50, convnext_tiny or swin_tiny_patch4_window7_224"
    )


def _on_meta(name: str, **arguments: Any) -> Any:
    import timm

    with torch.device("meta"):
        return timm.create_model(name, features_only=True, **arguments)


def _refusal(probe: nn.Module) -> str:
    """Why an encoder does not take images of :data:`PROBE_SIZE`, or an empty string."""
    try:
        with torch.no_grad():
            probe.eval()(torch.zeros(1, 3, *PROBE_SIZE, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return ""


def _no_pyramid(name: str, strides: str) -> ConfigError:
    return ConfigError(
        f"MODEL.TIMM.NAME is {name!r}, whose features have the strides {strides}; expected an encoder with "
        f"{list(STRIDES)}, for example tf_efficientnet_b5, resnet50 or convnext_tiny"
    )


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of RGB pixels, 0 to 255, that the weights of that name were trained with."""
    from timm.models import get_pretrained_cfg

    check_name(name)
    weights = get_pretrained_cfg(name)
    mean, std = (weights.mean, weights.std) if weights is not None else ((0.5,) * 3, (0.5,) * 3)
    return tuple(round(255 * one, 3) for one in mean), tuple(round(255 * one, 3) for one in std)


def efficientnet_arguments(*, remove_se: bool, activation: str, slope: float) -> dict[str, Any]:
    """How EfficientPS changes EfficientNets: without squeeze-and-excitation, with leaky ReLU in the place of SiLU."""
    arguments: dict[str, Any] = {"se_layer": nn.Identity} if remove_se else {}
    if activation == "leaky_relu":
        arguments["act_layer"] = functools.partial(nn.LeakyReLU, negative_slope=slope)
    return arguments


def with_norm(body: nn.Module, norm: str) -> nn.Module:
    """Batch norms exchanged for others that keep the activation within: PyTorch's and Detectron2's converters drop it.

    Args:
        body: changed in place, or what the result is made of.
        norm: "BN" leaves it, "SyncBN" or "FrozenBN".
    """
    from timm.layers import convert_sync_batchnorm

    if norm == "SyncBN":
        return convert_sync_batchnorm(body)
    return freeze_batch_norm(body) if norm == "FrozenBN" else body


def freeze_stages(body: nn.Module, freeze_at: int, modules: Sequence[str]) -> None:
    """Stop the training of the first stages in place: no gradients, fixed batch norms with their activations.

    Args:
        body: the encoder.
        freeze_at: 1 the stem, 2 also what makes res2, ..., 5 all.
        modules: that the four features are the output of.

    Raises:
        ConfigError: another number, or an encoder whose modules do not stand in the order in which they run.
    """
    if not 0 <= freeze_at <= len(STRIDES) + 1:
        raise ConfigError(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, expected 0 (freeze nothing) to {len(STRIDES) + 1}")
    if freeze_at == 0:
        return
    names = [name for name, _ in body.named_modules()]
    stages = _stages(names, modules)
    parts = names if freeze_at > len(STRIDES) else [name for name, stage in stages.items() if stage < freeze_at]
    frozen = [parameter for name in parts for parameter in body.get_submodule(name).parameters(recurse=False)]
    if not frozen:
        raise ConfigError(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, which this encoder cannot do; set it to 0 or 5")
    for parameter in frozen:
        parameter.requires_grad_(False)
    for name in parts:
        module = body.get_submodule(name)
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, freeze_batch_norm(module))


def _stages(names: Sequence[str], ends: Sequence[str]) -> dict[str, int]:
    """The stage of each module that lies in one, 0 the stem to 4 what makes res5; nothing where they are not found.

    Args:
        names: of all modules in the order in which they run, each before those within it.
        ends: of the modules whose outputs are res2 to res5.
    """
    # EfficientNets' first blocks have stride 2 and no feature of their own here: they count as res2's, not the stem's.
    first = "blocks.0" if ends[0].startswith("blocks.") else ends[0]
    stages: dict[str, int] = {}
    stage, entered = 0, False
    for name in names:
        if stage == 0:
            stage = int(_is_within(name, first))
        elif stage < len(ends) and entered and not _is_within(name, ends[stage - 1]):
            stage, entered = stage + 1, False
        entered = entered or (stage > 0 and _is_within(name, ends[stage - 1]))
        stages[name] = stage
    # A container belongs to the last of its parts.
    for name in reversed(names):
        parent = name.rpartition(".")[0]
        if name:
            stages[parent] = max(stages[parent], stages[name])
    return stages if stage == len(ends) and entered else {}


def _is_within(name: str, module: str) -> bool:
    # timm's feature extractors call "stages.0" also "stages_0" and "model.stages.0".
    return f"{name}_".replace(".", "_").removeprefix("model_").startswith(f"{module}_".replace(".", "_"))


def check_filled(model: nn.Module, weights: str, name: str) -> None:
    """Raise CheckpointError where most kernels of a model are not those of the file that it was filled from.

    timm leaves out what has no place in the model and what the file lacks, and so takes a file of another encoder.
    """
    from timm.models import load_state_dict

    in_file = {_signature(value) for value in load_state_dict(weights).values() if isinstance(value, torch.Tensor)}
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    found = sum(_signature(kernel) in in_file for kernel in kernels)
    if 2 * found < len(kernels):
        raise CheckpointError(
            f"MODEL.TIMM.WEIGHTS {Path(weights)} has {found} of the {len(kernels)} kernels of {name}; expected a file "
            "of timm's weights of that encoder"
        )


def _signature(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (*tensor.shape, float(tensor.detach().double().sum()))
