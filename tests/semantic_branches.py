"""Narrow semantic branches for tests, and their weights under the names of published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.systems.joint.semantic_branch import SemanticBranch, build_semantic_branch

NUM_CLASSES = 5
NESTED = {"0": "0", "1": "1.0", "3": "2", "4": "3.0"}
BLOCKS = {
    "query": "object_context_block.f_pixel",
    "key": "object_context_block.f_object",
    "value": "object_context_block.f_down",
    "up": "object_context_block.f_up",
    "fuse": "conv_bn_dropout",
}


def ocr_config(*, num_classes: int = NUM_CLASSES, **semantic: object) -> CfgNode:
    """HRNet of width 2 with a narrow OCR head, one norm for all; ``semantic`` are keys of SEMANTIC."""
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.NORM = model.SEM_SEG_HEAD.NORM = "BN"
    model.SEM_SEG_HEAD.NUM_CLASSES, model.SEM_SEG_HEAD.IGNORE_VALUE = num_classes, 255
    model.SEM_SEG_HEAD.OCR.MID_CHANNELS, model.SEM_SEG_HEAD.OCR.KEY_CHANNELS = 8, 4
    keys = model.PANOPTIC_DEEPLAB.SEMANTIC
    keys.BACKBONE = CfgNode({"NAME": "d2_hrnet", "DEPTH": 2, "MODULES": [1, 1, 1], "BLOCKS": 1})
    keys.ATTENTION_CHANNELS = 4
    for key, value in semantic.items():
        keys[key] = CfgNode(value) if isinstance(value, dict) else value
    return cfg


def ocr_branch(*, num_classes: int = NUM_CLASSES, seed: int = 0, **semantic: object) -> SemanticBranch:
    """The branch of :func:`ocr_config`, with weights that make its outputs differ from pixel to pixel."""
    torch.manual_seed(seed)
    return randomise(build_semantic_branch(ocr_config(num_classes=num_classes, **semantic)))


def randomise(model: nn.Module) -> nn.Module:
    """Predictors of unit size in place of nearly zero, and batch norms that have seen something."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
        elif isinstance(module, nn.Conv2d) and name.endswith(("predictor", "regions.3")):
            nn.init.normal_(module.weight, std=0.5)
    return model


def as_hrnet_ocr(weights: Mapping[str, torch.Tensor], prefix: str = "model.") -> dict[str, torch.Tensor]:
    """A branch's weights under the flat names of HRNet-OCR, with what its trainer saves beside them."""
    renamed = {_hrnet_ocr_name(key): value for key, value in weights.items() if not key.startswith("multi_scale")}
    return {prefix + key: value for key, value in renamed.items()} | {"loss.criterion.weight": torch.ones(NUM_CLASSES)}


def as_nvidia(weights: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """A branch's weights as a file of NVIDIA's trainer."""
    renamed = {f"module.{_nvidia_name(key)}": value for key, value in weights.items()}
    return {"state_dict": renamed, "epoch": 174, "mean_iu": 0.8, "command": "train.py"}


def _attention_name(key: str) -> str:
    block, index, kind = key.split(".")[1:]
    return f"ocr_distri_head.{BLOCKS[block]}.{NESTED[index]}.{kind}"


def _hrnet_ocr_name(key: str) -> str:
    part, _, rest = key.partition(".")
    if part == "backbone":
        return rest
    if rest.startswith("attention."):
        return _attention_name(rest)
    for ours, theirs in (("pixels", "conv3x3_ocr"), ("regions", "aux_head"), ("predictor", "cls_head")):
        rest = re.sub(rf"^{ours}\.", f"{theirs}.", rest)
    return rest


def _nvidia_name(key: str) -> str:
    if key.startswith("multi_scale.attention."):
        index, kind = key.split(".")[2:]
        return f"scale_attn.{dict(zip('01346', ('conv0', 'bn0', 'conv1', 'bn1', 'conv2'), strict=True))[index]}.{kind}"
    flat = _hrnet_ocr_name(key)
    if key.startswith("backbone."):
        return f"backbone.{flat}"
    flat = re.sub(r"^(conv3x3_ocr|aux_head)\.1\.", r"\1.1.0.", flat)
    return "ocr." + re.sub(r"^aux_head\.3\.", "aux_head.2.", flat)
