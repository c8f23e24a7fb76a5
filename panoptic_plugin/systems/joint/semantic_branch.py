"""What all semantic branches share: scales, mirroring, losses; and building one by its name in the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.heads.checks import check_ohem, check_semantic_loss
from panoptic_plugin.layers.multi_scale_attention import MultiScaleAttention, MultiScaleMaps, check_scales, resize_to
from panoptic_plugin.losses.semantic import SemanticLoss
from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY, lookup
from panoptic_plugin.systems.base import build_named_backbone
from panoptic_plugin.systems.joint.semantic_output import ACTIVATIONS, SemanticOutput

SECTION = "MODEL.PANOPTIC_DEEPLAB.SEMANTIC"
FEATURES = ("res2", "res3", "res4", "res5")
Features = Mapping[str, torch.Tensor]


def build_semantic_branch(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec] | None = None) -> SemanticBranch:
    """The branch that the config names.

    Args:
        cfg: the whole config.
        input_shape: features of a backbone that the branch may share; only branches without one of their own read it.

    Raises:
        ConfigError: an unknown name, or keys that do not fit each other.
    """
    name = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.NAME
    return lookup(SEMANTIC_BRANCH_REGISTRY, name, f"{SECTION}.NAME")(cfg, input_shape)


class SemanticBranch(nn.Module):
    """Base of the branches: a network at one or several scales, and the losses of its outputs.

    A branch implements :meth:`network`; its maps are the logits and, where ``num_maps`` is 2 C, the auxiliary logits
    behind them.

    Attributes:
        num_classes: C.
        feature_channels: F of the features it gives, or None.
        activation: "softmax" or "sigmoid": what makes scores of its logits.
        uses_shared_features: whether it reads the features of the instance branch's backbone.
        head_name: the part of the branch that is called ``sem_seg_head`` in a model by itself.
        class_tensors: names in the state dict of the tensors with one row a class.
    """

    uses_shared_features = False
    head_name = "head"
    class_tensors: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        num_classes: int,
        feature_channels: int | None,
        loss: SemanticLoss,
        activation: str = "",
        multi_scale: MultiScaleAttention | None = None,
        align_corners: bool = False,
        loss_weight: float = 1.0,
        fused_weight: float = 1.0,
        aux_weight: float = 0.4,
        scale_weights: Mapping[float, float] | None = None,
        test_flip: bool = False,
    ) -> None:
        """
        Args:
            num_classes: C.
            feature_channels: F, or None.
            loss: of the logits, of the scales' logits (without RMI), and by its ``auxiliary`` of the auxiliary ones.
            activation: "softmax", "sigmoid", or "" for that of the loss.
            multi_scale: runs and fuses the scales; None for scale 1.0 alone.
            align_corners: how logits are enlarged to the size of the targets.
            loss_weight: of all losses.
            fused_weight: of the loss of the fused logits.
            aux_weight: of the loss of the auxiliary logits.
            scale_weights: scale -> weight of the loss of its own logits.
            test_flip: average with the mirrored image in evaluation.
        """
        super().__init__()
        self.num_classes, self.feature_channels = num_classes, feature_channels
        self.loss = loss
        self.ignore_value = loss.ignore_value
        self.activation = activation or loss.activation
        self.multi_scale = multi_scale
        self.align_corners = align_corners
        self.loss_weight, self.fused_weight, self.aux_weight = loss_weight, fused_weight, aux_weight
        self.scale_weights = dict(scale_weights or {})
        self.test_flip = test_flip

    def network(self, images: torch.Tensor, shared: Features | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 3, H, W) at one scale to float32 maps (N, C or 2 C, h, w) and features (N, F, h, w)."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor, shared_features: Features | None = None) -> SemanticOutput:
        """Normalised, padded images (N, 3, H, W), and the shared backbone's features where the branch uses them."""
        output = self._at_all_scales(images, shared_features)
        if self.test_flip and not self.training:
            mirrored = self._at_all_scales(images.flip(-1), None)
            logits = (output.fused + mirrored.fused.flip(-1)) / 2
            output = MultiScaleMaps(logits, (output.features + mirrored.features.flip(-1)) / 2, {}, {})
        logits = output.fused[:, : self.num_classes]
        features = output.features if self.feature_channels else None
        stride = self.multi_scale.fusion_stride if self.multi_scale else 4
        return SemanticOutput(logits, features, tuple(self._auxiliary(output)) if self.training else (), stride)

    def losses(
        self, output: SemanticOutput, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The weighted losses by name.

        Args:
            output: what :meth:`forward` gave.
            targets: int64 (N, H, W), class indices or the ignored value.
            weights: float (N, H, W), multiplied onto each pixel's loss; or None.
        """
        size = targets.shape[-2:]
        fused = self.loss(resize_to(output.logits, size, align_corners=self.align_corners), targets, weights)
        losses = {"loss_sem_seg": fused * self.fused_weight * self.loss_weight}
        for name, logits, weight in output.auxiliary:
            plain = name == "aux" or self.loss.loss_type == "rmi"
            criterion = self.loss.auxiliary if plain else self.loss
            enlarged = resize_to(logits, size, align_corners=self.align_corners)
            losses[f"loss_sem_seg_{name}"] = criterion(enlarged, targets, weights) * weight * self.loss_weight
        return losses

    def _at_all_scales(self, images: torch.Tensor, shared: Features | None) -> MultiScaleMaps:
        if self.multi_scale is None:
            maps, features = self.network(images, shared)
            return MultiScaleMaps(maps, features, {1.0: maps}, {})
        return self.multi_scale(lambda resized: self.network(resized, shared), images)

    def _auxiliary(self, output: MultiScaleMaps) -> list[tuple[str, torch.Tensor, float]]:
        """Auxiliary logits, then those of each scale, with their weights; those of weight 0 are left out."""
        found = []
        if output.fused.shape[1] > self.num_classes:
            found.append(("aux", output.fused[:, self.num_classes :], self.aux_weight))
        for scale, weight in self.scale_weights.items() if len(output.scales) > 1 else ():
            found.append((f"scale_{scale:g}", output.scales[scale][:, : self.num_classes], weight))
        return [(name, logits, weight) for name, logits, weight in found if weight]


def branch_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`SemanticBranch` that the config holds, without the scales'.

    Raises:
        ConfigError: an unknown loss or activation.
    """
    semantic, head = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC, cfg.MODEL.SEM_SEG_HEAD
    check_semantic_loss(semantic.LOSS, head.LOSS_TOP_K, f"{SECTION}.LOSS")
    check_ohem(semantic.OHEM_THRESH, semantic.OHEM_MIN_KEPT, SECTION)
    if semantic.ACTIVATION not in ("", *ACTIVATIONS):
        raise ConfigError(
            f"{SECTION}.ACTIVATION is {semantic.ACTIVATION!r}, expected one of {', '.join(ACTIVATIONS)}, or '' for "
            "that of the loss"
        )
    loss = SemanticLoss(
        loss_type=semantic.LOSS,
        ignore_value=head.IGNORE_VALUE,
        top_k=head.LOSS_TOP_K,
        ohem_threshold=semantic.OHEM_THRESH,
        ohem_min_kept=semantic.OHEM_MIN_KEPT,
    )
    return {
        "num_classes": head.NUM_CLASSES,
        "loss": loss,
        "activation": semantic.ACTIVATION,
        "align_corners": semantic.ALIGN_CORNERS,
        "loss_weight": head.LOSS_WEIGHT,
        "fused_weight": semantic.FUSED_WEIGHT,
        "aux_weight": semantic.AUX_WEIGHT,
        "test_flip": semantic.TEST_FLIP,
    }


def scale_arguments(cfg: CfgNode, channels: int) -> dict[str, Any]:
    """``multi_scale`` and ``scale_weights`` of :class:`SemanticBranch`; without scales beside 1.0 there are none.

    Raises:
        ConfigError: scales without 1.0, or another number of weights than of scales.
    """
    semantic = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC
    if uses_one_scale(cfg) and semantic.FUSION_STRIDE == 4:
        return {"multi_scale": None, "scale_weights": {}}
    multi_scale = MultiScaleAttention(
        channels,
        train_scales=semantic.TRAIN_SCALES,
        test_scales=semantic.TEST_SCALES,
        mid_channels=semantic.ATTENTION_CHANNELS,
        norm=cfg.MODEL.SEM_SEG_HEAD.NORM,
        fusion_stride=semantic.FUSION_STRIDE,
        align_corners=semantic.ALIGN_CORNERS,
    )
    return {"multi_scale": multi_scale, "scale_weights": _scale_weights(semantic.TRAIN_SCALES, semantic.MSCALE_WEIGHT)}


def uses_one_scale(cfg: CfgNode) -> bool:
    """Whether the branch sees images at their own size alone; raises ConfigError for impossible scales."""
    semantic = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC
    found = [check_scales(semantic[key], f"{SECTION}.{key}") for key in ("TRAIN_SCALES", "TEST_SCALES")]
    return all(scales == (1.0,) for scales in found)


def _scale_weights(scales: Sequence[float], weights: Sequence[float]) -> dict[float, float]:
    if len(scales) == 1:  # the fused logits are those of the scale
        return {}
    if len(scales) != len(weights):
        raise ConfigError(
            f"{SECTION}.MSCALE_WEIGHT has {len(weights)} entries, expected {len(scales)}: one for each of TRAIN_SCALES "
            f"{list(scales)}, in their order"
        )
    return {float(scale): float(weight) for scale, weight in zip(scales, weights, strict=True)}


def build_own_backbone(cfg: CfgNode) -> Backbone:
    """The backbone of SEMANTIC.BACKBONE, with all features.

    Raises:
        ConfigError: no name, or an unknown one.
    """
    own = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.BACKBONE
    if not own.NAME:
        raise ConfigError(
            f"{SECTION}.BACKBONE.NAME is empty, but {cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.NAME} has a backbone of its "
            "own; name one, for example d2_hrnet, or take DeepLabSemanticBranch, which can share one"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = own.NAME, 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.OUT_FEATURES = own.DEPTH, list(FEATURES)
    cfg.MODEL.HRNET.MODULES, cfg.MODEL.HRNET.BLOCKS = own.MODULES, own.BLOCKS
    cfg.MODEL.HRNET.ALIGN_CORNERS = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.ALIGN_CORNERS
    return build_named_backbone(cfg)
