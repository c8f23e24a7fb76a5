"""DETR's ResNets: Detectron2's own, and with DC5 a last stage that is dilated as torchvision dilates it."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone, ResNet, build_resnet_backbone

from panoptic_plugin.errors import ConfigError


@BACKBONE_REGISTRY.register()
def build_detr_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A ResNet with res2 to res5; with ``MODEL.DETR.DILATION`` the last stage has stride 16 (DC5).

    ``MODEL.RESNETS.RES5_DILATION 2`` dilates all three 3x3 convolutions of the last stage; torchvision, and so the
    official DETR, leaves the first one as it is.

    Raises:
        ConfigError: DC5 of a ResNet without bottlenecks, or together with RES5_DILATION.
    """
    resnet = build_resnet_backbone(cfg, input_shape)
    if not cfg.MODEL.DETR.DILATION:
        return resnet
    if cfg.MODEL.RESNETS.DEPTH < 50 or cfg.MODEL.RESNETS.RES5_DILATION != 1:
        raise ConfigError(
            f"MODEL.DETR.DILATION needs MODEL.RESNETS.DEPTH 50, 101 or 152 and RES5_DILATION 1, found DEPTH "
            f"{cfg.MODEL.RESNETS.DEPTH} and RES5_DILATION {cfg.MODEL.RESNETS.RES5_DILATION}"
        )
    first = resnet.res5[0]
    stage = ResNet.make_stage(
        type(first),
        len(resnet.res5),
        in_channels=first.in_channels,
        out_channels=first.out_channels,
        bottleneck_channels=first.conv1.out_channels,
        num_groups=cfg.MODEL.RESNETS.NUM_GROUPS,
        norm=cfg.MODEL.RESNETS.NORM,
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        stride_per_block=[1] * len(resnet.res5),
        dilation_per_block=[1] + [2] * (len(resnet.res5) - 1),
    )
    stages = [list(getattr(resnet, name)) for name in ("res2", "res3", "res4")] + [stage]
    dilated = ResNet(resnet.stem, stages, out_features=["res2", "res3", "res4", "res5"])
    return dilated.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
