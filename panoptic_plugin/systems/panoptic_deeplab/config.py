"""Config keys of Panoptic-DeepLab: Detectron2's, by import, and nothing else yet."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_panoptic_deeplab_keys(cfg: CfgNode) -> None:
    """Add INPUT, SOLVER, MODEL.SEM_SEG_HEAD, MODEL.INS_EMBED_HEAD and MODEL.PANOPTIC_DEEPLAB keys of the system."""
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    add_panoptic_deeplab_config(cfg)
    cfg.MODEL.INS_EMBED_HEAD.NAME = "PluginPanopticDeepLabInsEmbedHead"
