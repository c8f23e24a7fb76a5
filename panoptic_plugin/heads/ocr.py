"""The OCR head (https://arxiv.org/abs/1909.11065) with its losses, for a whole model or a branch of one.

Shape legend: N images of H x W pixels, h x w pixels at stride 4, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from panoptic_plugin.heads.checks import check_semantic_loss, ohem_options
from panoptic_plugin.layers.multi_scale_attention import resize_to
from panoptic_plugin.layers.ocr_layers import OCRLayers, OCROutput
from panoptic_plugin.losses.semantic import SemanticLoss


@SEM_SEG_HEADS_REGISTRY.register()
class PluginHRNetOCRHead(OCRLayers):
    """HRNet-OCR for Detectron2's ``SemanticSegmentor`` and for the semantic branch of the joint network.

    Losses: ``loss_sem_seg`` of the logits, and ``loss_sem_seg_aux`` of the auxiliary ones, without mining.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        loss: SemanticLoss,
        loss_weight: float = 1.0,
        aux_weight: float = 0.4,
        **layer_arguments: Any,
    ) -> None:
        """
        Args:
            input_shape: features by name.
            loss: of the logits; its ``auxiliary`` that of the auxiliary logits.
            loss_weight: of both.
            aux_weight: of the auxiliary loss, relative to the other.
            layer_arguments: those of :class:`OCRLayers`.
        """
        super().__init__(input_shape, **layer_arguments)
        self.loss = loss
        self.ignore_value = loss.ignore_value
        self.loss_weight, self.aux_weight = loss_weight, aux_weight
        self.common_stride = self.stride

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        check_semantic_loss(head.LOSS_TYPE, head.LOSS_TOP_K)
        loss = SemanticLoss(
            loss_type=head.LOSS_TYPE, ignore_value=head.IGNORE_VALUE, top_k=head.LOSS_TOP_K, **ohem_options(cfg)
        )
        return {
            "input_shape": input_shape,
            "loss": loss,
            "loss_weight": head.LOSS_WEIGHT,
            "aux_weight": head.OCR.AUX_WEIGHT,
            **ocr_layer_arguments(cfg),
        }

    def layers(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, C, h, w) at the common stride, float32."""
        return super().forward(features).logits

    def forward(  # type: ignore[override]
        self,
        features: Mapping[str, torch.Tensor],
        targets: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Features, and in training targets int64 (N, H, W) with pixel weights (N, H, W) or None.

        Returns:
            (None, losses) in training, (logits (N, C, 4 h, 4 w), {}) in evaluation.
        """
        output = super().forward(features)
        if self.training:
            assert targets is not None
            return None, self.losses(output, targets, weights)
        size = [side * self.common_stride for side in output.logits.shape[-2:]]
        return resize_to(output.logits, size, align_corners=self.align_corners), {}

    def losses(
        self, output: OCROutput, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """What :class:`OCRLayers` gives, targets and weights, to the two weighted losses."""
        logits, auxiliary = (
            resize_to(maps, targets.shape[-2:], align_corners=self.align_corners)
            for maps in (output.logits, output.auxiliary)
        )
        return {
            "loss_sem_seg": self.loss(logits, targets, weights) * self.loss_weight,
            "loss_sem_seg_aux": self.loss.auxiliary(auxiliary, targets, weights) * self.aux_weight * self.loss_weight,
        }


def ocr_layer_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`OCRLayers` that MODEL.SEM_SEG_HEAD holds."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "in_features": head.IN_FEATURES,
        "num_classes": head.NUM_CLASSES,
        "mid_channels": head.OCR.MID_CHANNELS,
        "key_channels": head.OCR.KEY_CHANNELS,
        "dropout": head.OCR.DROPOUT,
        "norm": head.NORM,
        "align_corners": head.OCR.ALIGN_CORNERS,
    }
