"""A trained model made ready to predict: averaged weights, folded batch norms, memory format, augmentation."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from panoptic_plugin.engine.averaging import CHECKPOINT_KEY, load_averages
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.model import build_model
from panoptic_plugin.errors import CheckpointError
from panoptic_plugin.layers.folding import fold_batch_norm
from panoptic_plugin.registry import TTA_REGISTRY, lookup

logger = logging.getLogger(__name__)


def load_for_inference(cfg, *, resume: bool = False) -> nn.Module:
    """The model of the config with its weights, in evaluation mode and as fast as the config lets it be.

    Args:
        cfg: reads MODEL (with WEIGHTS, DEVICE and EMA), TEST.{FOLD_BN, CHANNELS_LAST, AUG} and OUTPUT_DIR.
        resume: take the last checkpoint of ``OUTPUT_DIR`` where there is one.

    Raises:
        CheckpointError: weights that are missing, damaged or do not fit the model.
        ConfigError: a name that is not registered, or a device that is not there.
    """
    model = build_model(cfg).eval()
    checkpointer = PluginCheckpointer(model, cfg.OUTPUT_DIR if resume else "", eval_only=True)
    if resume and not cfg.MODEL.WEIGHTS and not checkpointer.has_checkpoint():
        raise CheckpointError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint to evaluate, and MODEL.WEIGHTS is empty; name the "
            "OUTPUT_DIR of a training, or its weights with --weights PATH"
        )
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    model = for_inference(cfg, model, loaded.get(CHECKPOINT_KEY))
    if cfg.TEST.AUG.ENABLED:
        model = with_test_time_augmentation(cfg, model)
    model.weights_file = checkpointer.loaded_file  # for the report of an evaluation
    return model


def for_inference(cfg, model: nn.Module, averages: Mapping[str, Any] | None = None) -> nn.Module:
    """What evaluation runs in the place of ``model``: a copy, or the model itself where nothing is to be changed.

    Args:
        cfg: reads MODEL.EMA and TEST.{FOLD_BN, CHANNELS_LAST}.
        model: the network, not wrapped.
        averages: state of :class:`~panoptic_plugin.engine.averaging.AveragedWeights`; used where MODEL.EMA says so.
    """
    use_averages = cfg.MODEL.EMA.ENABLED and cfg.MODEL.EMA.EVALUATE
    if use_averages and averages is None and cfg.MODEL.WEIGHTS:
        logger.info("%s holds no averaged weights (MODEL.EMA): its weights are used", cfg.MODEL.WEIGHTS)
    if use_averages and averages is not None:
        model = copy.deepcopy(model)
        load_averages(model, averages, cfg.MODEL.WEIGHTS or "this training")
    if cfg.TEST.FOLD_BN:
        model = fold_batch_norm(model)
    if cfg.TEST.CHANNELS_LAST:
        # Kernels take the format of the weights, and hand it on with the features.
        model = (model if cfg.TEST.FOLD_BN else copy.deepcopy(model)).to(memory_format=torch.channels_last)
    return model


def with_test_time_augmentation(cfg, model: nn.Module) -> nn.Module:
    """The model behind the views of ``TEST.AUG``.

    Raises:
        ConfigError: the meta-architecture has no test-time augmentation, or sizes that cannot be.
    """
    name = f"{cfg.MODEL.META_ARCHITECTURE}WithTTA"
    wrapped = lookup(TTA_REGISTRY, name, "MODEL.META_ARCHITECTURE with TEST.AUG.ENABLED")(model, cfg.TEST.AUG)
    logger.info("Test-time augmentation: %s", wrapped.views)
    return wrapped
