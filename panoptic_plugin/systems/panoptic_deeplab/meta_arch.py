"""The meta-architecture of Panoptic-DeepLab, registered as ``PluginPanopticDeepLab``.

Parameters have the names of Detectron2's ``PanopticDeepLab``, so checkpoints load both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.projects.panoptic_deeplab.panoptic_seg import INS_EMBED_BRANCHES_REGISTRY
from torch import nn

from panoptic_plugin.registry import lookup
from panoptic_plugin.systems.base import Batch, build_named_backbone, build_named_sem_seg_head
from panoptic_plugin.systems.center_offset import CenterOffsetSystem, center_offset_arguments


@META_ARCH_REGISTRY.register()
class PluginPanopticDeepLab(CenterOffsetSystem):
    """One backbone, a semantic head and an instance head."""

    @configurable
    def __init__(self, *, sem_seg_head: nn.Module, ins_embed_head: nn.Module, **system_arguments: Any) -> None:
        """
        Args:
            sem_seg_head: ``(features, targets, weights) -> (logits, losses)``.
            ins_embed_head: ``(features, center, center_weights, offset, offset_weights) -> (heatmap, offsets,
                center losses, offset losses)``.
            system_arguments: those of :class:`~panoptic_plugin.systems.center_offset.CenterOffsetSystem`.
        """
        super().__init__(**system_arguments)
        self.sem_seg_head = sem_seg_head
        self.ins_embed_head = ins_embed_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        arguments = center_offset_arguments(cfg)
        instance_head = lookup(INS_EMBED_BRANCHES_REGISTRY, cfg.MODEL.INS_EMBED_HEAD.NAME, "MODEL.INS_EMBED_HEAD.NAME")
        backbone: Backbone = build_named_backbone(cfg)
        return {
            **arguments,
            "backbone": backbone,
            "sem_seg_head": build_named_sem_seg_head(cfg, backbone.output_shape()),
            "ins_embed_head": instance_head(cfg, backbone.output_shape()),
        }

    def losses(self, batched_inputs: Batch) -> dict[str, torch.Tensor]:
        """``loss_sem_seg``, ``loss_center`` and ``loss_offset`` of a batch; see :meth:`forward` for its keys."""
        images = self.images(batched_inputs)
        semantic = self.targets(batched_inputs, "sem_seg", self.sem_seg_head.ignore_value)
        targets = self.instance_targets(batched_inputs)
        features = self.backbone(images.tensor)
        if self.instance_weights.needs_predictions:
            return self._losses_weighted_by_instance(batched_inputs, features, semantic, *targets)
        _, losses = self.sem_seg_head(features, semantic, self.semantic_weights(batched_inputs))
        _, _, center_losses, offset_losses = self.ins_embed_head(features, *targets)
        return {**losses, **center_losses, **offset_losses}

    def _losses_weighted_by_instance(
        self,
        batched_inputs: Batch,
        features: dict[str, torch.Tensor],
        semantic: torch.Tensor,
        center: torch.Tensor,
        center_weights: torch.Tensor,
        offset: torch.Tensor,
        offset_weights: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses with weights that depend on the outputs of the heads; for the targets see :meth:`losses`."""
        logits = self.sem_seg_head.layers(features)
        heatmaps, offsets = self.ins_embed_head.layers(features)
        weights = self.predicted_weights(
            batched_inputs,
            logits=logits,
            targets=semantic,
            ignore_value=self.sem_seg_head.ignore_value,
            heatmaps=heatmaps,
            offsets=offsets,
        )
        if weights["center"] is not None:
            center_weights = center_weights * weights["center"]
        if weights["offset"] is not None:
            offset_weights = offset_weights * weights["offset"]
        return {
            **self.sem_seg_head.losses(logits, semantic, weights["semantic"]),
            **self.ins_embed_head.center_losses(heatmaps, center, center_weights),
            **self.ins_embed_head.offset_losses(offsets, offset, offset_weights),
        }

    def predict(
        self, images: torch.Tensor, *, enlarge_logits: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.backbone(images)
        logits = self.sem_seg_head(features)[0] if enlarge_logits else self.sem_seg_head.layers(features)
        heatmaps, offsets, _, _ = self.ins_embed_head(features)
        return logits, heatmaps, offsets
