"""DeepLabV3+ as a semantic branch, with a backbone of its own or on that of the instance branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY
from panoptic_plugin.systems.base import build_named_sem_seg_head
from panoptic_plugin.systems.joint.semantic_branch import (
    SECTION,
    Features,
    SemanticBranch,
    branch_arguments,
    build_own_backbone,
    scale_arguments,
    uses_one_scale,
)


@SEMANTIC_BRANCH_REGISTRY.register()
class DeepLabSemanticBranch(SemanticBranch):
    """A decoder head by MODEL.SEM_SEG_HEAD.NAME; its features are what its predictor reads."""

    class_tensors = ("head.predictor.weight", "head.predictor.bias")

    @configurable
    def __init__(self, *, backbone: Backbone | None, head: nn.Module, **branch_arguments: Any) -> None:
        """
        Args:
            backbone: features by name; None reads those of a shared backbone.
            head: one of DeepLab's kind: ``layers(features)`` gives logits at stride 4, ``predictor`` is its last
                convolution.
            branch_arguments: those of :class:`SemanticBranch`.
        """
        super().__init__(feature_channels=head.predictor.in_channels, **branch_arguments)
        self.backbone, self.head = backbone, head

    @property
    def uses_shared_features(self) -> bool:  # type: ignore[override]
        return self.backbone is None

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec] | None) -> dict[str, Any]:
        own = bool(cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.BACKBONE.NAME)
        if not own and (not uses_one_scale(cfg) or cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.TEST_FLIP):
            raise ConfigError(
                f"{SECTION}.BACKBONE.NAME is empty, but a shared backbone sees the image at its own size alone; set "
                f"{SECTION}.TRAIN_SCALES and TEST_SCALES to [1.0] and TEST_FLIP to False, or name a backbone"
            )
        if not own and input_shape is None:
            raise ConfigError(f"{SECTION}.BACKBONE.NAME is empty, but there is no backbone to share; name one")
        backbone = build_own_backbone(cfg) if own else None
        head = build_named_sem_seg_head(cfg, backbone.output_shape() if backbone else input_shape)
        if not hasattr(head, "predictor") or head.common_stride != 4:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NAME is {cfg.MODEL.SEM_SEG_HEAD.NAME!r} with COMMON_STRIDE "
                f"{cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE}, expected a decoder of DeepLab's kind at stride 4, "
                "for example PluginPanopticDeepLabSemSegHead"
            )
        scales = scale_arguments(cfg, head.predictor.in_channels)
        return {"backbone": backbone, "head": head, **branch_arguments(cfg), **scales}

    def network(self, images: torch.Tensor, shared: Features | None) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SemanticBranch.network`."""
        features = shared if self.backbone is None else self.backbone(images)
        if features is None:
            raise ValueError("this branch shares a backbone: call it with that one's features")
        with _inputs_of(self.head.predictor) as inputs:
            logits = self.head.layers(features)
        return logits, inputs[-1]


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What ``module`` is called with inside the block."""
    inputs: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        handle.remove()
