"""Weights that a part of a model starts from, before ``MODEL.WEIGHTS``, which wins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from torch import nn

from panoptic_plugin.engine.semantic_weights import SemanticLoadReport, load_semantic_weights

logger = logging.getLogger(__name__)


def load_pretrained_parts(cfg, model: nn.Module) -> SemanticLoadReport | None:
    """Fill the semantic branch of a joint network from ``SEMANTIC.PRETRAINED``; other models are left as they are.

    Args:
        cfg: reads MODEL.PANOPTIC_DEEPLAB.SEMANTIC and the class names of DATASETS.TRAIN.
        model: the network, not wrapped.

    Returns:
        What was filled, or None where nothing was to be.

    Raises:
        CheckpointError: the file is missing, damaged or does not fit.
    """
    branch = getattr(model, "semantic_branch", None)
    keys = cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC
    if branch is None or not keys.PRETRAINED:
        return None
    return load_semantic_weights(
        branch,
        PathManager.get_local_path(keys.PRETRAINED) if "://" in keys.PRETRAINED else keys.PRETRAINED,
        keys.IGNORE_HEAD,
        strict=keys.STRICT_LOAD,
        source_classes=keys.PRETRAINED_CLASSES,
        target_classes=_class_names(cfg) if keys.PRETRAINED_CLASSES else (),
    )


def _class_names(cfg) -> Sequence[str]:
    """Names of all contiguous classes: both lists of a panoptic dataset cover all of them."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return metadata.get("stuff_classes") or metadata.get("thing_classes")
