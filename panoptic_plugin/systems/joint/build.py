"""The parts of the joint network from the config, and the reasons why some cannot be put together."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.modeling.backbone import Backbone
from detectron2.projects.panoptic_deeplab.panoptic_seg import INS_EMBED_BRANCHES_REGISTRY
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import SEMANTIC_EMBEDDER_REGISTRY, lookup
from panoptic_plugin.systems.base import build_named_backbone
from panoptic_plugin.systems.joint.embedder import EmbedderOptions
from panoptic_plugin.systems.joint.injection import DecoderConcat, build_injection, make_room_in_decoder
from panoptic_plugin.systems.joint.semantic_branch import SemanticBranch, build_semantic_branch

KEY = "MODEL.PANOPTIC_DEEPLAB.INSTANCE"
Parts = dict[str, nn.Module | None]


def build_parts(cfg: CfgNode, thing_ids: Sequence[int]) -> Parts:
    """``semantic_branch``, ``backbone``, ``ins_embed_head``, ``semantic_embedder`` and ``injection``; None where the
    config has no such part.

    Raises:
        ConfigError: keys that do not fit each other, with the reason.
    """
    instance = cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE
    check_foreground(instance.GT_FOREGROUND_PROB, instance.SEMANTIC_INPUT)
    if not instance.ENABLE:
        branch = build_semantic_branch(cfg)
        _check_classes(cfg, branch)
        return {"semantic_branch": branch, **dict.fromkeys(("backbone", "ins_embed_head", *GUIDANCE))}
    backbone = build_named_backbone(cfg)
    branch = build_semantic_branch(cfg, backbone.output_shape())
    _check_classes(cfg, branch)
    guidance = _guidance(cfg, backbone, branch, thing_ids) if instance.USE_SEMANTIC else dict.fromkeys(GUIDANCE)
    head = _instance_head(cfg, backbone, guidance["injection"])
    return {"semantic_branch": branch, "backbone": backbone, "ins_embed_head": head, **guidance}


GUIDANCE = ("semantic_embedder", "injection")


def check_foreground(probability: float, semantic_input: str) -> None:
    """Raise ConfigError for a GT_FOREGROUND_PROB that cannot be."""
    if not 0 <= probability <= 1:
        raise ConfigError(f"{KEY}.GT_FOREGROUND_PROB is {probability}, expected a share from 0 to 1")
    if probability and semantic_input != "thing_prob":
        raise ConfigError(
            f"{KEY}.GT_FOREGROUND_PROB is {probability}, but SEMANTIC_INPUT {semantic_input!r} hides no pixel that "
            "could be shown; set GT_FOREGROUND_PROB to 0, or SEMANTIC_INPUT to 'thing_prob'"
        )


def _check_classes(cfg: CfgNode, branch: SemanticBranch) -> None:
    wanted = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if branch.num_classes != wanted:
        raise ConfigError(
            f"{type(branch).__name__} has {branch.num_classes} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {wanted}"
        )


def _guidance(cfg: CfgNode, backbone: Backbone, branch: SemanticBranch, thing_ids: Sequence[int]) -> Parts:
    """The way from the semantic branch to the instance branch."""
    instance = cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE
    channels = instance.SEMANTIC_EMBED_CHANNELS
    injection = build_injection(
        instance.INJECT,
        channels=channels,
        backbone=backbone,
        input_shape=backbone.output_shape(),
        in_features=list(cfg.MODEL.INS_EMBED_HEAD.IN_FEATURES),
        shares_backbone=branch.uses_shared_features,
    )
    embedder = lookup(SEMANTIC_EMBEDDER_REGISTRY, instance.SEMANTIC_INPUT, f"{KEY}.SEMANTIC_INPUT")
    options = EmbedderOptions(
        num_classes=branch.num_classes,
        thing_ids=thing_ids,
        activation=branch.activation,
        feature_channels=branch.feature_channels,
        channels=channels,
        norm=cfg.MODEL.INS_EMBED_HEAD.NORM,
        zero_init=instance.ZERO_INIT,
    )
    return {"semantic_embedder": embedder(options), "injection": injection}


def _instance_head(cfg: CfgNode, backbone: Backbone, injection: nn.Module | None) -> nn.Module:
    head = cfg.MODEL.INS_EMBED_HEAD
    make = lookup(INS_EMBED_BRANCHES_REGISTRY, head.NAME, "MODEL.INS_EMBED_HEAD.NAME")
    if not isinstance(injection, DecoderConcat):
        return make(cfg, backbone.output_shape())
    wide = cfg.clone()
    wide.defrost()
    channels = cfg.MODEL.PANOPTIC_DEEPLAB.INSTANCE.SEMANTIC_EMBED_CHANNELS
    # The head orders its features by stride, and the projections belong to them in this order.
    wide.MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS = [head.PROJECT_CHANNELS[0] + channels, *head.PROJECT_CHANNELS[1:]]
    built = make(wide, backbone.output_shape())
    make_room_in_decoder(built, injection.name, head.PROJECT_CHANNELS[0], head.NORM)
    return built
