"""Encoders of timm (https://github.com/huggingface/pytorch-image-models) as Detectron2 backbones.

EfficientNets lose their squeeze-and-excitation and get leaky ReLU, as in EfficientPS
(https://arxiv.org/abs/2004.02307, section 3.1); all other encoders are as timm has them. Features have the names res2
to res5 for strides 4 to 32, so that every head of this package runs on them.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import nn

from panoptic_plugin.backbones.config import with_backbone_keys
from panoptic_plugin.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
NAMES = ("res2", "res3", "res4", "res5")
ACTIVATIONS = ("leaky_relu", "default")
NORMS = ("BN", "SyncBN", "FrozenBN")
LAST_STAGES = ("head", "blocks")


class TimmBackbone(Backbone):
    """Feature maps of an encoder of timm."""

    def __init__(
        self,
        name: str,
        *,
        remove_se: bool = True,
        activation: str = "leaky_relu",
        slope: float = 0.01,
        norm: str = "BN",
        last_stage: str = "head",
        freeze_at: int = 0,
        weights: str = "",
        pretrained: bool = True,
    ) -> None:
        """Build it with random weights; :meth:`load_pretrained` fills it.

        Args:
            name: of an encoder, as ``timm.list_models()`` has them, with or without the name of its weights
                ("tf_efficientnet_b5.ra_in1k").
            remove_se: EfficientNets go without squeeze-and-excitation.
            activation: of EfficientNets, one of :data:`ACTIVATIONS`.
            slope: of the leaky ReLU for negative numbers.
            norm: one of :data:`NORMS`.
            last_stage: what res5 of an EfficientNet is: "head", the convolution after the last block (2,048 channels of
                B5); "blocks", the last block (512).
            freeze_at: EfficientNets do not train up to here: 1 the stem, 2 res2, ..., 5 all; 0 trains all.
            weights: a file for :meth:`load_pretrained`, in place of a download.
            pretrained: whether :meth:`load_pretrained` does anything.

        Raises:
            ConfigError: an unknown name or value, or an encoder without features at these strides.
        """
        super().__init__()
        _check_values(activation, norm, last_stage)
        self.name, self.weights, self.pretrained = name, weights, pretrained
        is_efficientnet, levels = _look_at(name)
        self._with_head = is_efficientnet and last_stage == "head"
        self._indices = [level["index"] for level in levels]
        self._arguments = _efficientnet_arguments(remove_se, activation, slope) if is_efficientnet else {}
        if self._with_head:
            self._arguments.update(num_classes=0, global_pool="")
        else:
            self._arguments.update(features_only=True, out_indices=tuple(self._indices))
        self.body = _make(name, **self._arguments)
        channels = [level["num_chs"] for level in levels]
        if self._with_head:
            channels[-1] = self.body.num_features
        self._out_features = list(NAMES)
        self._shapes = {
            one: ShapeSpec(channels=width, stride=stride)
            for one, width, stride in zip(NAMES, channels, STRIDES, strict=True)
        }
        if freeze_at and not is_efficientnet:
            raise ConfigError(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, which {name} cannot do; set it to 0")
        if freeze_at:
            _freeze(self.body, freeze_at, [level["module"] for level in levels])
        self.body = _with_norm(self.body, norm)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Float (N, 3, H, W) to float (N, channels, H / stride, W / stride) by name, rounded up."""
        if self._with_head:
            last, levels = self.body.forward_intermediates(images, indices=self._indices)
            levels = [*levels[:-1], last]
        else:
            levels = self.body(images)
        named = zip(NAMES, levels, strict=True)
        return {name: _channels_first(level, self._shapes[name].channels) for name, level in named}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    @property
    def size_divisibility(self) -> int:
        return STRIDES[-1]

    def load_pretrained(self) -> None:
        """Fill the encoder with the weights of its name, from ``weights`` or by timm's download.

        Weights of what was removed are left out.

        Raises:
            CheckpointError: they cannot be had, or are another encoder's.
        """
        if not self.pretrained:
            return
        overlay = {"pretrained_cfg_overlay": {"file": self.weights}} if self.weights else {}
        try:
            source = _make(self.name, pretrained=True, **overlay, **self._arguments)
        except Exception as error:  # timm hands on what its way to the file raises: hub, network, unpickling, shapes
            raise CheckpointError(self._no_weights(error)) from None
        own = self.body.state_dict()
        filled = {key: value for key, value in source.state_dict().items() if key in own}
        self.body.load_state_dict(filled, strict=False)
        logger.info("Filled %d of %d tensors of %s from %s", len(filled), len(own), self.name, self.weights or "timm")

    def _no_weights(self, error: Exception) -> str:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        if self.weights:
            return (
                f"MODEL.TIMM.WEIGHTS {self.weights} does not fill {self.name}: {reason}; expected a file of timm's "
                "weights of that encoder"
            )
        return (
            f"the weights of MODEL.TIMM.NAME {self.name} could not be fetched: {reason}. Set MODEL.TIMM.WEIGHTS to a "
            "file fetched elsewhere, or MODEL.TIMM.PRETRAINED False to start from random weights"
        )


def _channels_first(features: torch.Tensor, channels: int) -> torch.Tensor:
    # Swin and some other transformers of timm give (N, H, W, channels).
    return features if features.shape[1] == channels else features.permute(0, 3, 1, 2).contiguous()


def _freeze(body: nn.Module, freeze_at: int, ends: Sequence[str]) -> None:
    """Fix stem and blocks of an EfficientNet, batch norms included.

    Args:
        body: changed in place.
        freeze_at: 1 the stem, 2 up to res2, ..., 5 all.
        ends: the last group of blocks of each feature: "blocks.1", "blocks.2", "blocks.4", "blocks.6".
    """
    from timm.layers import freeze_batch_norm_2d

    last = int(ends[min(freeze_at, 5) - 2].split(".")[1]) if freeze_at > 1 else -1
    frozen = ["conv_stem", "bn1", *(f"blocks.{number}" for number in range(last + 1))]
    for part in frozen + (["conv_head", "bn2"] if freeze_at >= 5 else []):
        parent, _, child = part.rpartition(".")
        holder = body.get_submodule(parent)
        if hasattr(holder, child):
            setattr(holder, child, freeze_batch_norm_2d(getattr(holder, child)).requires_grad_(False))


def _make(name: str, *, on_meta: bool = False, **arguments: Any) -> Any:
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"the closest are {', '.join(close)}" if close else "see timm.list_models()"
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have; {hint}")
    if arguments.get("pretrained"):
        return timm.create_model(name, **arguments)
    try:
        if on_meta:
            with torch.device("meta"):
                return timm.create_model(name, **arguments)
        return timm.create_model(name, **arguments)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")) or "none"
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}: {error} Names with weights: {known}") from None


def _efficientnet_arguments(remove_se: bool, activation: str, slope: float) -> dict[str, Any]:
    arguments: dict[str, Any] = {"se_layer": nn.Identity} if remove_se else {}
    if activation == "leaky_relu":
        arguments["act_layer"] = partial(nn.LeakyReLU, negative_slope=slope)
    return arguments


def _look_at(name: str) -> tuple[bool, list[dict[str, Any]]]:
    """Whether an encoder is an EfficientNet; and what timm says of its features at the strides 4, 8, 16, 32: index,
    num_chs, module."""
    from timm.models.efficientnet import EfficientNetFeatures

    try:
        probe = _make(name, on_meta=True, features_only=True)
        found = probe.feature_info.get_dicts(keys=["index", "num_chs", "module", "reduction"])
    except (AttributeError, NotImplementedError, TypeError):
        probe, found = None, []
    last = {level["reduction"]: level for level in found}
    if not set(STRIDES) <= last.keys():
        raise ConfigError(
            f"MODEL.TIMM.NAME is {name!r}, whose features have the strides {list(last) or 'of no pyramid'}; expected "
            f"an encoder with {list(STRIDES)}, for example tf_efficientnet_b5, resnet50 or convnext_tiny"
        )
    return isinstance(probe, EfficientNetFeatures), [last[stride] for stride in STRIDES]


def _with_norm(body: nn.Module, norm: str) -> nn.Module:
    """Batch norms exchanged by timm's own functions: PyTorch's and Detectron2's drop the activation that is in them."""
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

    if norm == "SyncBN":
        return convert_sync_batchnorm(body)
    return freeze_batch_norm_2d(body) if norm == "FrozenBN" else body


def _check_values(activation: str, norm: str, last_stage: str) -> None:
    checks: Mapping[str, tuple[str, tuple[str, ...]]] = {
        "ACT": (activation, ACTIVATIONS),
        "NORM": (norm, NORMS),
        "LAST_STAGE": (last_stage, LAST_STAGES),
    }
    for key, (found, known) in checks.items():
        if found not in known:
            raise ConfigError(f"MODEL.TIMM.{key} is {found!r}, expected one of {', '.join(known)}")


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The encoder that ``MODEL.TIMM`` describes."""
    cfg = with_backbone_keys(cfg)
    keys = cfg.MODEL.TIMM
    if input_shape.channels != 3:
        raise ConfigError(f"encoders of timm take 3 channels, but MODEL.PIXEL_MEAN has {input_shape.channels}")
    return TimmBackbone(
        keys.NAME,
        remove_se=keys.REMOVE_SE,
        activation=keys.ACT,
        slope=keys.ACT_SLOPE,
        norm=keys.NORM,
        last_stage=keys.LAST_STAGE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        weights=keys.WEIGHTS,
        pretrained=keys.PRETRAINED,
    )
