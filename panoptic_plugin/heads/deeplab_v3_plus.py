"""DeepLabV3+ decoder and semantic head (https://arxiv.org/abs/1802.02611), after Detectron2's, for any image size.

Detectron2's ``DeepLabV3PlusHead`` builds and runs the decoder; what is exchanged is the image pooling of its ASPP and
its loss. Parameters and their names stay Detectron2's, so checkpoints load both ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab.semantic_seg import DeepLabV3PlusHead
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.heads.checks import check_decoder, check_semantic_loss, crop_size, ohem_options
from panoptic_plugin.layers.image_pooling import with_any_size_pooling
from panoptic_plugin.losses.semantic import SemanticLoss


def pool_any_size(
    decoder: nn.ModuleDict, input_shape: Mapping[str, ShapeSpec], train_size: tuple[int, int] | None
) -> None:
    """Let the ASPP of a DeepLabV3+ decoder take features of any size, in place.

    Args:
        decoder: Detectron2's, one entry a feature; the deepest holds the ASPP as ``project_conv``.
        input_shape: the features by name.
        train_size: (height, width) of the training crop in image pixels; None averages over the whole image.
    """
    deepest = max(input_shape, key=lambda name: input_shape[name].stride)
    stride = input_shape[deepest].stride
    window = None if train_size is None else (math.ceil(train_size[0] / stride), math.ceil(train_size[1] / stride))
    with_any_size_pooling(decoder[deepest]["project_conv"], window)


def enlarge_to_targets(predictions: torch.Tensor, stride: int, targets: torch.Tensor) -> torch.Tensor:
    """Predictions (N, C, h, w) at a stride, to the (H, W) of targets (N, ..., H, W).

    Enlarged by exactly ``stride`` and cut: an odd image has ``ceil(H / stride)`` rows of features.
    """
    enlarged = F.interpolate(predictions, scale_factor=stride, mode="bilinear", align_corners=False)
    return enlarged[..., : targets.shape[-2], : targets.shape[-1]]


def check_head_config(cfg: CfgNode, section: str, input_shape: Mapping[str, ShapeSpec]) -> None:
    """Check the keys that every DeepLabV3+ decoder reads from ``cfg.MODEL.<section>``; raises ConfigError."""
    head = cfg.MODEL[section]
    check_decoder(
        section=f"MODEL.{section}",
        in_features=head.IN_FEATURES,
        backbone_features=input_shape,
        project_channels=head.PROJECT_CHANNELS,
        aspp_dilations=head.ASPP_DILATIONS,
        common_stride=head.COMMON_STRIDE,
    )
    crop = cfg.INPUT.CROP
    crop_size(crop_enabled=crop.ENABLED, crop_type=crop.TYPE, size=crop.SIZE)


@SEM_SEG_HEADS_REGISTRY.register()
class PluginDeepLabV3PlusHead(DeepLabV3PlusHead):
    """Detectron2's ``DeepLabV3PlusHead`` that takes any image size and honours LOSS_TOP_K.

    Use it with Detectron2's ``SemanticSegmentor``.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        train_size: tuple[int, int] | None,
        loss_type: str,
        loss_top_k: float,
        ignore_value: int,
        loss_options: Mapping[str, Any] | None = None,
        **decoder_arguments: Any,
    ) -> None:
        """
        Args:
            input_shape: features by name.
            num_classes: number of semantic classes.
            train_size: (height, width) of the training crop, or None.
            loss_type: one of :data:`~panoptic_plugin.losses.semantic.SEMANTIC_LOSSES`.
            loss_top_k: fraction of pixels that "hard_pixel_mining" keeps.
            ignore_value: the label without a loss.
            loss_options: further arguments of a ``SemanticLoss``.
            decoder_arguments: those of Detectron2's ``DeepLabV3PlusHead``.

        Raises:
            ConfigError: an unknown loss.
        """
        check_semantic_loss(loss_type, loss_top_k)
        super().__init__(
            input_shape,
            num_classes=num_classes,
            train_size=None,
            loss_type="cross_entropy",  # Detectron2 knows two, and ours takes its place
            ignore_value=ignore_value,
            **decoder_arguments,
        )
        pool_any_size(self.decoder, input_shape, train_size)
        self.loss = SemanticLoss(
            loss_type=loss_type, ignore_value=ignore_value, top_k=loss_top_k, **(loss_options or {})
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        check_head_config(cfg, "SEM_SEG_HEAD", input_shape)
        arguments = super().from_config(cfg, input_shape)
        arguments["loss_top_k"] = cfg.MODEL.SEM_SEG_HEAD.LOSS_TOP_K
        arguments["loss_options"] = ohem_options(cfg)
        return arguments

    def layers(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, C, h, w) at the common stride, float32, contiguous: what follows is slow in channels_last."""
        return super().layers(features).float().contiguous()

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits at the common stride and int64 (N, H, W) targets to the weighted ``loss_sem_seg``."""
        logits = enlarge_to_targets(predictions, self.common_stride, targets)
        return {"loss_sem_seg": self.loss(logits, targets) * self.loss_weight}
