"""The two heads of Panoptic-DeepLab (https://arxiv.org/abs/1911.10194), after Detectron2's.

Decoders, convolutions and parameter names are Detectron2's by inheritance; exchanged are the image pooling (any image
size), the losses (no wait for the device, ``cross_entropy`` works) and the precision of the predictions (float32 also
under autocast: half precision would put offsets of a hundred pixels on a grid of half a pixel).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.panoptic_deeplab.panoptic_seg import (
    INS_EMBED_BRANCHES_REGISTRY,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
)

from panoptic_plugin.heads.checks import check_semantic_loss, ohem_options
from panoptic_plugin.heads.deeplab_v3_plus import check_head_config, enlarge_to_targets, pool_any_size
from panoptic_plugin.losses.center import center_mse
from panoptic_plugin.losses.offset import offset_l1
from panoptic_plugin.losses.semantic import SemanticLoss


@SEM_SEG_HEADS_REGISTRY.register()
class PluginPanopticDeepLabSemSegHead(PanopticDeepLabSemSegHead):
    """Semantic head: decoder, one more block of convolutions, logits."""

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
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
            train_size: (height, width) of the training crop, or None.
            loss_type: one of :data:`~panoptic_plugin.losses.semantic.SEMANTIC_LOSSES`.
            loss_top_k: fraction of pixels that "hard_pixel_mining" keeps.
            ignore_value: the label without a loss.
            loss_options: further arguments of a ``SemanticLoss``.
            decoder_arguments: those of Detectron2's ``PanopticDeepLabSemSegHead``.

        Raises:
            ConfigError: an unknown loss.
        """
        check_semantic_loss(loss_type, loss_top_k)
        super().__init__(
            input_shape,
            train_size=None,
            loss_type="cross_entropy",  # Detectron2 knows two, and ours takes its place
            loss_top_k=loss_top_k,
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
        return {**super().from_config(cfg, input_shape), "loss_options": ohem_options(cfg)}

    def layers(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, C, h, w) at the common stride, float32, contiguous: what follows is slow in channels_last."""
        return super().layers(features).float().contiguous()

    def losses(
        self, predictions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Logits at the common stride, int64 (N, H, W) targets, pixel weights (N, H, W), to ``loss_sem_seg``."""
        logits = enlarge_to_targets(predictions, self.common_stride, targets)
        return {"loss_sem_seg": self.loss(logits, targets, weights) * self.loss_weight}


@INS_EMBED_BRANCHES_REGISTRY.register()
class PluginPanopticDeepLabInsEmbedHead(PanopticDeepLabInsEmbedHead):
    """Instance head: decoder, then a center heatmap and offsets (dy, dx) from each pixel to its center."""

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        train_size: tuple[int, int] | None,
        **decoder_arguments: Any,
    ) -> None:
        """
        Args:
            input_shape: features by name.
            train_size: (height, width) of the training crop, or None.
            decoder_arguments: those of Detectron2's ``PanopticDeepLabInsEmbedHead``.
        """
        super().__init__(input_shape, train_size=None, **decoder_arguments)
        pool_any_size(self.decoder, input_shape, train_size)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        check_head_config(cfg, "INS_EMBED_HEAD", input_shape)
        return super().from_config(cfg, input_shape)

    def layers(self, features: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Heatmap (N, 1, h, w) and offsets (N, 2, h, w) in units of the common stride, float32, contiguous."""
        center, offset = super().layers(features)
        return center.float().contiguous(), offset.float().contiguous()

    def center_losses(
        self, predictions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Heatmap at the common stride, targets and weights (N, 1, H, W), to the weighted ``loss_center``."""
        heatmap = enlarge_to_targets(predictions, self.common_stride, targets)
        return {"loss_center": center_mse(heatmap, targets, weights) * self.center_loss_weight}

    def offset_losses(
        self, predictions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Offsets at the common stride, targets (N, 2, H, W), weights (N, 1, H, W), to ``loss_offset``."""
        offsets = enlarge_to_targets(predictions, self.common_stride, targets) * self.common_stride
        return {"loss_offset": offset_l1(offsets, targets, weights) * self.offset_loss_weight}
