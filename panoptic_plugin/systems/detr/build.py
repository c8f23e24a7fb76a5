"""The parts of a DETR from a config."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.query_transformer import QueryTransformer
from panoptic_plugin.systems.base import build_named_backbone
from panoptic_plugin.systems.detr.criterion import LossWeights, SetCriterion
from panoptic_plugin.systems.detr.network import DETRNetwork


def check_config(cfg: CfgNode, slots: Mapping[int, int]) -> None:
    """Keys that contradict each other or the dataset; raises ConfigError."""
    detr = cfg.MODEL.DETR
    outside = sorted(slot for slot in slots.values() if not 0 <= slot < detr.NUM_CLASSES)
    if outside:
        raise ConfigError(
            f"MODEL.DETR.NUM_CLASSES is {detr.NUM_CLASSES}, but the dataset {cfg.DATASETS.TRAIN[0]!r} has the category "
            f"ids {outside[:8]}; set it to at least {max(outside) + 1}, or MODEL.DETR.LABEL_SPACE to contiguous"
        )
    if detr.HIDDEN_DIM % detr.NHEADS or detr.HIDDEN_DIM % 16:
        raise ConfigError(
            f"MODEL.DETR.HIDDEN_DIM is {detr.HIDDEN_DIM}, expected a multiple of 16 and of NHEADS {detr.NHEADS}"
        )
    if detr.FROZEN_WEIGHTS and not cfg.MODEL.MASK_ON:
        raise ConfigError("MODEL.DETR.FROZEN_WEIGHTS freezes all but the mask head; set MODEL.MASK_ON True")
    for key, known in (
        ("HEAD_INIT", ("random", "by_name")),
        ("MASK_QUERIES", ("matched", "all")),
    ):
        if detr[key] not in known:
            raise ConfigError(f"MODEL.DETR.{key} is {detr[key]!r}, expected one of {', '.join(known)}")


def build_network(cfg: CfgNode) -> DETRNetwork:
    """The network that ``MODEL.DETR`` and ``MODEL.BACKBONE`` describe, with a mask head where ``MODEL.MASK_ON``."""
    detr = cfg.MODEL.DETR
    transformer = QueryTransformer(
        dim=detr.HIDDEN_DIM,
        num_heads=detr.NHEADS,
        num_encoder_layers=detr.ENC_LAYERS,
        num_decoder_layers=detr.DEC_LAYERS,
        feedforward_dim=detr.DIM_FEEDFORWARD,
        dropout=detr.DROPOUT,
        norm_first=detr.PRE_NORM,
    )
    return DETRNetwork(
        backbone=build_named_backbone(cfg),
        num_classes=detr.NUM_CLASSES,
        num_queries=detr.NUM_OBJECT_QUERIES,
        transformer=transformer,
        dim=detr.HIDDEN_DIM,
        num_heads=detr.NHEADS,
        masks=cfg.MODEL.MASK_ON,
    )


def build_criterion(detr: CfgNode) -> SetCriterion:
    """The criterion that ``MODEL.DETR`` describes."""
    weights = LossWeights(
        cls=detr.CLASS_WEIGHT,
        l1=detr.L1_WEIGHT,
        giou=detr.GIOU_WEIGHT,
        mask=detr.MASK_WEIGHT,
        dice=detr.DICE_WEIGHT,
        cost_class=detr.COST_CLASS,
        cost_bbox=detr.COST_BBOX,
        cost_giou=detr.COST_GIOU,
        no_object=detr.NO_OBJECT_WEIGHT,
    )
    return SetCriterion(
        num_classes=detr.NUM_CLASSES,
        weights=weights,
        deep_supervision=detr.DEEP_SUPERVISION,
        masks=detr.MASK_QUERIES,
    )
