"""Config keys of the backbones, beside Detectron2's own ``MODEL.BACKBONE`` and ``MODEL.RESNETS``."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of our backbones to a config that holds Detectron2's defaults."""
    # Epsilon of the batch norms. The published panoptic models use PyTorch's default; weights that come from
    # TensorFlow (Xception-65 on ImageNet) were trained with 1e-3.
    cfg.MODEL.RESNETS.BN_EPS = 1e-5
    # d2_hrnet reads its width (18, 32, 48 or any small one) from MODEL.RESNETS.DEPTH; these two make small networks.
    cfg.MODEL.HRNET = CfgNode()
    # Modules in stages 2, 3 and 4.
    cfg.MODEL.HRNET.MODULES = [1, 4, 3]
    # Residual blocks in each branch of a module.
    cfg.MODEL.HRNET.BLOCKS = 4
    # How a branch is enlarged to the size of another: HRNet's weights want True, NVIDIA's False.
    cfg.MODEL.HRNET.ALIGN_CORNERS = True
    _add_timm_keys(cfg)


def _add_timm_keys(cfg: CfgNode) -> None:
    cfg.MODEL.TIMM = CfgNode(
        {
            # The encoder of build_timm_backbone and build_timm_two_way_fpn_backbone, as timm.list_models() names it.
            "NAME": "tf_efficientnet_b5.ra_in1k",
            # A training that starts without MODEL.WEIGHTS takes timm's weights of that name, by download or from the
            # file WEIGHTS. Evaluation and a resumed training need neither.
            "PRETRAINED": True,
            "WEIGHTS": "",
            # EfficientNets without squeeze-and-excitation, and their activation: "leaky_relu" with ACT_SLOPE, or
            # "default", timm's own.
            "REMOVE_SE": True,
            "ACT": "leaky_relu",
            "ACT_SLOPE": 0.01,
            # "BN", "SyncBN" or "FrozenBN".
            "NORM": "BN",
            # What res5 is of an EfficientNet: "head", the convolution after the last block (2,048 channels of B5), or
            # "blocks", the last block (512).
            "LAST_STAGE": "head",
        }
    )
    cfg.MODEL.TWO_WAY_FPN = CfgNode(
        {
            "OUT_CHANNELS": 256,
            # Its 3x3 convolutions: "dwsep", depthwise separable (the paper), or "conv" (the released code).
            "OUT_CONV": "dwsep",
            "NORM": "BN",
            # "maxpool" adds p6, every other pixel of p5; "none" does not.
            "TOP_BLOCK": "maxpool",
        }
    )


def with_backbone_keys(cfg: CfgNode) -> CfgNode:
    """``cfg`` itself where it holds the keys of :func:`add_backbone_config`, else a copy with their defaults.

    A script with Detectron2's own ``get_cfg`` can so name our backbones without knowing our keys.
    """
    if "HRNET" in cfg.MODEL and "BN_EPS" in cfg.MODEL.RESNETS and "TIMM" in cfg.MODEL:
        return cfg
    complete = cfg.clone()
    complete.defrost()
    add_backbone_config(complete)
    return complete
