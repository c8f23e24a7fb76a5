"""Building the semantic branch by MODEL.PANOPTIC_DEEPLAB.SEMANTIC.NAME."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY, lookup


def build_semantic_branch(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec] | None = None) -> nn.Module:
    """The branch that the config names.

    Args:
        cfg: the whole config.
        input_shape: features of a backbone that the branch may share; only branches without one of their own read it.

    Raises:
        ConfigError: an unknown name, or keys that do not fit each other.
    """
    key = "MODEL.PANOPTIC_DEEPLAB.SEMANTIC.NAME"
    return lookup(SEMANTIC_BRANCH_REGISTRY, cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.NAME, key)(cfg, input_shape)
