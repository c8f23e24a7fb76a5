"""The joint network, registered as ``PluginJointPanoptic``: a semantic branch guides an instance branch.

The instance branch is that of Panoptic-DeepLab with its names of weights, ``backbone`` and ``ins_embed_head``, so that
a trained Panoptic-DeepLab fills it. The semantic branch (``semantic_branch``) is any of SEMANTIC_BRANCH_REGISTRY. The
way between the two is ``semantic_embedder``, which embeds the semantics, and ``injection``, which hands them over.

Shapes: N images of H x W pixels (padded), C classes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.systems.base import Batch
from panoptic_plugin.systems.center_offset import CenterOffsetSystem, center_offset_arguments
from panoptic_plugin.systems.joint.build import build_parts
from panoptic_plugin.systems.joint.class_scores import score_logits
from panoptic_plugin.systems.joint.foreground import ShownForeground
from panoptic_plugin.systems.joint.freezing import FROZEN_PARTS, check_freezing, freeze
from panoptic_plugin.systems.joint.injection import Features
from panoptic_plugin.systems.joint.semantic_branch import SemanticBranch
from panoptic_plugin.systems.joint.semantic_output import SemanticOutput

# Lower than any threshold: where there is no instance branch, nothing is a center.
NO_CENTER = -1.0
# Images are padded to multiples of it where no backbone says otherwise: the largest stride of HRNet.
SIZE_DIVISIBILITY = 32


@META_ARCH_REGISTRY.register()
class PluginJointPanoptic(CenterOffsetSystem):
    """Two branches with a backbone each, or one for both.

    Attributes:
        freeze_module: which branch stays as it is, a key of
            :data:`~panoptic_plugin.systems.joint.freezing.FROZEN_PARTS`.
    """

    @configurable
    def __init__(
        self,
        *,
        semantic_branch: SemanticBranch,
        backbone: Backbone | None,
        ins_embed_head: nn.Module | None,
        semantic_embedder: nn.Module | None,
        injection: nn.Module | None,
        foreground: ShownForeground,
        detach_semantic: bool,
        freeze_module: str,
        ignore_value: int,
        size_divisibility: int,
        **system_arguments: Any,
    ) -> None:
        """
        Args:
            semantic_branch: logits of all classes.
            backbone: of the instance branch; None builds the semantic branch alone, and things are void in results.
            ins_embed_head: ``(features, center, center_weights, offset, offset_weights) -> (heatmap, offsets,
                center losses, offset losses)``.
            semantic_embedder: of SEMANTIC_EMBEDDER_REGISTRY; None leaves the branches side by side.
            injection: see ``injection.py``.
            foreground: true things to show in training.
            detach_semantic: the instance losses have no gradient in the semantic branch.
            freeze_module: "", "semantic" or "instance".
            ignore_value: the label without a semantic loss.
            size_divisibility: images are padded to multiples of it; not positive means what the backbone asks for.
            system_arguments: those of :class:`~panoptic_plugin.systems.center_offset.CenterOffsetSystem`.

        Raises:
            ConfigError: nothing can be frozen so.
        """
        if backbone is None and size_divisibility <= 0:
            size_divisibility = SIZE_DIVISIBILITY
        super().__init__(backbone=backbone, size_divisibility=size_divisibility, **system_arguments)
        check_freezing(
            freeze_module, has_instances=backbone is not None, shares_backbone=semantic_branch.uses_shared_features
        )
        self.semantic_branch = semantic_branch
        self.ins_embed_head = ins_embed_head
        self.semantic_embedder = semantic_embedder
        self.injection = injection
        self.foreground = foreground
        self.detach_semantic = detach_semantic
        self.freeze_module = freeze_module
        self.ignore_value = ignore_value
        freeze(self._frozen())
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ConfigError(
                f"MODEL.PANOPTIC_DEEPLAB.FREEZE_MODULE is {freeze_module!r}, and {type(semantic_branch).__name__} "
                "learns nothing: nothing is left to train; set FREEZE_MODULE to ''"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        system = cfg.MODEL.PANOPTIC_DEEPLAB
        arguments = center_offset_arguments(cfg)
        foreground = ShownForeground(
            probability=system.INSTANCE.GT_FOREGROUND_PROB,
            until=cfg.SOLVER.MAX_ITER // 2,
            thing_ids=arguments["thing_ids"],
        )
        return {
            **arguments,
            **build_parts(cfg, arguments["thing_ids"]),
            "foreground": foreground,
            "detach_semantic": system.INSTANCE.DETACH_SEMANTIC,
            "freeze_module": system.FREEZE_MODULE,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def _frozen(self) -> list[nn.Module | None]:
        return [getattr(self, name) for name in FROZEN_PARTS[self.freeze_module]]

    def train(self, mode: bool = True) -> PluginJointPanoptic:
        """As every module's; a frozen branch stays in evaluation, so that its statistics and dropout do."""
        super().train(mode)
        freeze(self._frozen())
        return self

    def losses(self, batched_inputs: Batch) -> dict[str, torch.Tensor]:
        """Those of the semantic branch, ``loss_center`` and ``loss_offset``, but for a frozen branch."""
        images = self.images(batched_inputs).tensor
        targets = self.targets(batched_inputs, "sem_seg", self.ignore_value)
        output, features = self._semantics(images)
        heatmaps = offsets = None
        if self.ins_embed_head is not None and self.freeze_module != "instance":
            features = self._guided(images, output, features, self.foreground(targets))
            heatmaps, offsets = self.ins_embed_head.layers(features)
        weights: dict[str, torch.Tensor | None] = {"semantic": self.semantic_weights(batched_inputs)}
        if self.instance_weights.needs_predictions:
            weights = self.predicted_weights(
                batched_inputs,
                logits=score_logits(output.logits, self.semantic_branch.activation),
                targets=targets,
                ignore_value=self.ignore_value,
                heatmaps=heatmaps,
                offsets=offsets,
            )
        losses: dict[str, torch.Tensor] = {}
        if self.freeze_module != "semantic":
            losses |= self.semantic_branch.losses(output, targets, weights["semantic"])
        if heatmaps is not None and offsets is not None:
            losses |= self._instance_losses(batched_inputs, heatmaps, offsets, weights)
        return losses

    def _instance_losses(
        self,
        batched_inputs: Batch,
        heatmaps: torch.Tensor,
        offsets: torch.Tensor,
        factors: dict[str, torch.Tensor | None],
    ) -> dict[str, torch.Tensor]:
        """Heatmaps (N, 1, h, w) and offsets (N, 2, h, w) to their losses; ``factors`` (N, 1, H, W) by name, or None."""
        head: Any = self.ins_embed_head
        center, center_weights, offset, offset_weights = self.instance_targets(batched_inputs)
        center_weights = _multiplied(center_weights, factors.get("center"))
        offset_weights = _multiplied(offset_weights, factors.get("offset"))
        return {
            **head.center_losses(heatmaps, center, center_weights),
            **head.offset_losses(offsets, offset, offset_weights),
        }

    def predict(
        self, images: torch.Tensor, *, enlarge_logits: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        output, features = self._semantics(images)
        logits = score_logits(output.logits, self.semantic_branch.activation)
        size = [side * output.stride for side in logits.shape[-2:]]
        if enlarge_logits and output.stride > 1:
            logits = F.interpolate(logits, scale_factor=output.stride, mode="bilinear", align_corners=False)
        if self.ins_embed_head is None:
            heatmaps = logits.new_full((len(images), 1, *size), NO_CENTER)
            return logits, heatmaps, logits.new_zeros((len(images), 2, *size))
        heatmaps, offsets, _, _ = self.ins_embed_head(self._guided(images, output, features))
        return logits, heatmaps, offsets

    def _semantics(self, images: torch.Tensor) -> tuple[SemanticOutput, Features | None]:
        """Output of the semantic branch, and the features of the backbone where it had to run for it."""
        with torch.no_grad() if self.freeze_module == "semantic" else nullcontext():
            if not self.semantic_branch.uses_shared_features:
                return self.semantic_branch(images), None
            assert self.backbone is not None, "build_parts has refused it"
            features = self.backbone(images)
            return self.semantic_branch(images, features), features

    def _guided(
        self,
        images: torch.Tensor,
        output: SemanticOutput,
        features: Features | None,
        foreground: torch.Tensor | None = None,
    ) -> Features:
        """The features that the instance head decodes."""
        assert self.backbone is not None, "a head has a backbone"
        if self.semantic_embedder is None or self.injection is None:
            return self.backbone(images) if features is None else features
        if self.detach_semantic:
            features_of_branch = None if output.features is None else output.features.detach()
            output = replace(output, logits=output.logits.detach(), features=features_of_branch)
        embedding = self.semantic_embedder(output, tuple(images.shape[-2:]), foreground)
        return self.injection(self.backbone, images, embedding, features)


def _multiplied(weights: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return weights if factor is None else weights * factor
