"""HRNet with OCR at several scales, fused by attention, as a semantic branch (arXiv 2005.10821)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone

from panoptic_plugin.heads.ocr import ocr_layer_arguments
from panoptic_plugin.layers.ocr_layers import OCRLayers
from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY
from panoptic_plugin.systems.joint.semantic_branch import (
    FEATURES,
    Features,
    SemanticBranch,
    branch_arguments,
    build_own_backbone,
    scale_arguments,
)


@SEMANTIC_BRANCH_REGISTRY.register()
class MscaleOCRBranch(SemanticBranch):
    """Own backbone, OCR with its supervised auxiliary output, and attention between the scales."""

    head_name = "ocr"
    class_tensors = tuple(f"ocr.{layer}.{kind}" for layer in ("regions.3", "predictor") for kind in ("weight", "bias"))

    @configurable
    def __init__(self, *, backbone: Backbone, ocr: OCRLayers, **branch_arguments: Any) -> None:
        """
        Args:
            backbone: features by name.
            ocr: logits, auxiliary logits and features of them.
            branch_arguments: those of :class:`SemanticBranch`.
        """
        super().__init__(num_classes=ocr.num_classes, feature_channels=ocr.feature_channels, **branch_arguments)
        self.backbone, self.ocr = backbone, ocr

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec] | None) -> dict[str, Any]:
        arguments = branch_arguments(cfg)
        del arguments["num_classes"]
        backbone = build_own_backbone(cfg)
        ocr = OCRLayers(
            backbone.output_shape(),
            **ocr_layer_arguments(cfg)
            | {"in_features": FEATURES, "align_corners": cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.ALIGN_CORNERS},
        )
        scales = scale_arguments(cfg, ocr.feature_channels)
        return {"backbone": backbone, "ocr": ocr, **arguments, **scales}

    def network(self, images: torch.Tensor, shared: Features | None) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SemanticBranch.network`; the auxiliary logits are among the maps in training alone."""
        output = self.ocr(self.backbone(images))
        maps = torch.cat([output.logits, output.auxiliary], dim=1) if self.training else output.logits
        return maps, output.features
