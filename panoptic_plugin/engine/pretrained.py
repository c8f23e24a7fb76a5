"""Weights that a part of a model starts from, before ``MODEL.WEIGHTS``, which wins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from panoptic_plugin.engine.semantic_weights import SemanticLoadReport, load_semantic_weights

logger = logging.getLogger(__name__)


def load_pretrained_parts(cfg, model: nn.Module) -> SemanticLoadReport | None:
    """Fill the semantic branch of a joint network from ``SEMANTIC.PRETRAINED``, and encoders that know their weights.

    The latter, such as timm's, are left as they are where ``MODEL.WEIGHTS`` fills the model anyway.

    Args:
        cfg: reads MODEL.WEIGHTS, MODEL.PANOPTIC_DEEPLAB.SEMANTIC and the class names of DATASETS.TRAIN.
        model: the network, not wrapped.

    Returns:
        What was filled of a semantic branch, or None where nothing was to be.

    Raises:
        CheckpointError: the file is missing, damaged or does not fit.
    """
    if not cfg.MODEL.WEIGHTS:
        _load_encoders(model)
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


def _load_encoders(model: nn.Module) -> None:
    """Let each part that has ``load_pretrained`` load; a download is made once on a machine, the others wait for it."""
    encoders = [module for module in model.modules() if hasattr(module, "load_pretrained")]
    if not encoders:
        return
    for turn in (True, False):
        if (comm.get_local_rank() == 0) == turn:
            for encoder in encoders:
                encoder.load_pretrained()
        comm.synchronize()


def _class_names(cfg) -> Sequence[str]:
    """Names of all contiguous classes: both lists of a panoptic dataset cover all of them."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return metadata.get("stuff_classes") or metadata.get("thing_classes")
