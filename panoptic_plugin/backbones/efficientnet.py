"""Encoders of timm (https://github.com/huggingface/pytorch-image-models) as Detectron2 backbones.

EfficientNets lose their squeeze-and-excitation and get leaky ReLU, as in EfficientPS
(https://arxiv.org/abs/2004.02307, section 3.1); all other encoders are as timm has them. Features have the names res2
to res5 for strides 4 to 32, so that every head of this package runs on them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone

from panoptic_plugin.backbones.config import with_backbone_keys
from panoptic_plugin.backbones.timm_models import (
    STRIDES,
    check_filled,
    efficientnet_arguments,
    freeze_stages,
    look_at,
    normalisation,
    with_norm,
)
from panoptic_plugin.errors import CheckpointError, ConfigError, UserError

logger = logging.getLogger(__name__)

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
        in_channels: int = 3,
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
            freeze_at: what does not train: 1 the stem, 2 also up to res2, ..., 5 all; 0 trains all.
            weights: a file for :meth:`load_pretrained`, in place of a download.
            pretrained: whether :meth:`load_pretrained` does anything.
            in_channels: of the images; timm repeats or sums the weights of three.

        Raises:
            ConfigError: an unknown name or value, an encoder without features at these strides or for images of one
                size only, or one that cannot be frozen in part.
        """
        super().__init__()
        _check_values(activation, norm, last_stage)
        self.name, self.weights, self.pretrained = name, weights, pretrained
        encoder = look_at(name)
        self._with_head = encoder.is_efficientnet and last_stage == "head"
        self._indices = encoder.indices
        self._channels_last = encoder.channels_last
        self._arguments = {**encoder.arguments, "in_chans": in_channels}
        if encoder.is_efficientnet:
            self._arguments.update(efficientnet_arguments(remove_se=remove_se, activation=activation, slope=slope))
        if self._with_head:
            self._arguments.update(num_classes=0, global_pool="")
        else:
            self._arguments.update(features_only=True, out_indices=encoder.indices)
        self.body = _make(name, **self._arguments)
        channels = [*encoder.channels[:-1], self.body.num_features] if self._with_head else encoder.channels
        self._out_features = list(NAMES)
        self._shapes = {
            one: ShapeSpec(channels=width, stride=stride)
            for one, width, stride in zip(NAMES, channels, STRIDES, strict=True)
        }
        freeze_stages(self.body, freeze_at, encoder.modules)
        self.body = with_norm(self.body, norm)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Float (N, in_channels, H, W) to float (N, channels, H / stride, W / stride) by name, rounded up."""
        if self._with_head:
            last, levels = self.body.forward_intermediates(images, indices=list(self._indices))
            levels = [*levels[:-1], last]
        else:
            levels = self.body(images)
        if self._channels_last:  # Swin and some other transformers of timm
            levels = [level.permute(0, 3, 1, 2).contiguous() for level in levels]
        return dict(zip(NAMES, levels, strict=True))

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
        if self.weights and not Path(self.weights).is_file():
            raise CheckpointError(f"MODEL.TIMM.WEIGHTS is {self.weights}, which is no file")
        overlay = {"pretrained_cfg_overlay": {"file": self.weights}} if self.weights else {}
        try:
            source = _make(self.name, pretrained=True, **overlay, **self._arguments)
            if self.weights:
                check_filled(source, self.weights, self.name)
        except UserError:
            raise
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


def _make(name: str, **arguments: Any) -> Any:
    import timm

    return timm.create_model(name, **arguments)


def _check_values(activation: str, norm: str, last_stage: str) -> None:
    checks: Mapping[str, tuple[str, tuple[str, ...]]] = {
        "ACT": (activation, ACTIVATIONS),
        "NORM": (norm, NORMS),
        "LAST_STAGE": (last_stage, LAST_STAGES),
    }
    for key, (found, known) in checks.items():
        if found not in known:
            raise ConfigError(f"MODEL.TIMM.{key} is {found!r}, expected one of {', '.join(known)}")


def _compare_normalisation(cfg: CfgNode) -> None:
    """Warn where images reach the encoder in other colours than those that its weights were trained with."""
    mean, std = normalisation(cfg.MODEL.TIMM.NAME)
    found = (*cfg.MODEL.PIXEL_MEAN, *cfg.MODEL.PIXEL_STD)
    same = len(found) == len(mean + std) and all(abs(a - b) < 2 for a, b in zip(found, mean + std, strict=True))
    if cfg.INPUT.FORMAT != "RGB" or not same:
        logger.warning(
            "The weights of %s were trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN %s and PIXEL_STD %s; the config "
            "has %s, %s and %s",
            *(cfg.MODEL.TIMM.NAME, list(mean), list(std)),
            *(cfg.INPUT.FORMAT, list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)),
        )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The encoder that ``MODEL.TIMM`` describes."""
    cfg = with_backbone_keys(cfg)
    keys = cfg.MODEL.TIMM
    if keys.PRETRAINED and not cfg.MODEL.WEIGHTS:
        _compare_normalisation(cfg)
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
        in_channels=input_shape.channels,
    )
