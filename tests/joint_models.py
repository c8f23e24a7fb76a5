"""A joint network that takes no time: a semantic branch of one convolution, HRNet of width 4, narrow heads."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from panoptic_deeplab_models import NUM_CLASSES, THINGS, tiny_config
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.losses.cross_entropy import cross_entropy
from panoptic_plugin.registry import SEMANTIC_BRANCH_REGISTRY
from panoptic_plugin.systems.joint.semantic_output import SemanticOutput

FEATURE_CHANNELS = 6
__all__ = ["NUM_CLASSES", "THINGS", "joint_config", "TinySemanticBranch"]


class TinySemanticBranch(nn.Module):
    """Features by two strided convolutions with a batch norm and dropout, logits by a third."""

    num_classes, activation, uses_shared_features = NUM_CLASSES, "softmax", False
    class_tensors = ("predictor.weight", "predictor.bias")
    head_name = "predictor"
    feature_channels: int | None = FEATURE_CHANNELS

    def __init__(self, cfg: CfgNode, input_shape: object = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, FEATURE_CHANNELS, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(FEATURE_CHANNELS)
        self.conv2 = nn.Conv2d(FEATURE_CHANNELS, FEATURE_CHANNELS, 3, stride=2, padding=1)
        self.dropout = nn.Dropout2d(0.5)
        self.predictor = nn.Conv2d(FEATURE_CHANNELS, NUM_CLASSES, 1)

    def forward(self, images: torch.Tensor, shared_features: object = None) -> SemanticOutput:
        features = self.dropout(F.relu(self.conv2(F.relu(self.bn1(self.conv1(images))))))
        return SemanticOutput(self.predictor(features), features)

    def losses(self, output, targets, weights=None):
        logits = F.interpolate(output.logits, scale_factor=4, mode="bilinear")
        size = targets.shape[-2:]
        loss = cross_entropy(logits[..., : size[0], : size[1]], targets, ignore_value=255, pixel_weights=weights)
        return {"loss_sem_seg": loss}


class FeaturelessSemanticBranch(TinySemanticBranch):
    """Logits alone."""

    feature_channels = None


for branch in (TinySemanticBranch, FeaturelessSemanticBranch):
    if branch.__name__ not in SEMANTIC_BRANCH_REGISTRY:
        SEMANTIC_BRANCH_REGISTRY.register(branch)


def joint_config(branch: str = "TinySemanticBranch", **instance: object) -> CfgNode:
    """A joint config on the tiny dataset; ``instance`` are keys of INSTANCE."""
    cfg = tiny_config(dsconv=True)
    model = cfg.MODEL
    model.META_ARCHITECTURE = "PluginJointPanoptic"
    model.BACKBONE.NAME = "d2_hrnet"
    model.RESNETS.DEPTH, model.HRNET.MODULES, model.HRNET.BLOCKS = 4, [1, 1, 1], 1
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    head = model.INS_EMBED_HEAD
    head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    head.PROJECT_CHANNELS, head.ASPP_CHANNELS, head.CONVS_DIM, head.HEAD_CHANNELS = [4, 4, 4], 8, 8, 8
    model.PANOPTIC_DEEPLAB.SEMANTIC.NAME = branch
    for key, value in instance.items():
        model.PANOPTIC_DEEPLAB.INSTANCE[key] = value
    return cfg
