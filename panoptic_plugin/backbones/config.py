"""Config keys of the backbones, beside Detectron2's own ``MODEL.BACKBONE`` and ``MODEL.RESNETS``."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of d2_xception_65 and d2_hrnet to a config that holds Detectron2's defaults."""
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


def with_backbone_keys(cfg: CfgNode) -> CfgNode:
    """``cfg`` itself where it holds the keys of :func:`add_backbone_config`, else a copy with their defaults.

    A script with Detectron2's own ``get_cfg`` can so name our backbones without knowing our keys.
    """
    if "HRNET" in cfg.MODEL and "BN_EPS" in cfg.MODEL.RESNETS:
        return cfg
    complete = cfg.clone()
    complete.defrost()
    add_backbone_config(complete)
    return complete
