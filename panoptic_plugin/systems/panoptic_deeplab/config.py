"""Config keys of Panoptic-DeepLab: Detectron2's, by import, and what only ours knows."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_panoptic_deeplab_keys(cfg: CfgNode) -> None:
    """Add INPUT, SOLVER, MODEL.SEM_SEG_HEAD, MODEL.INS_EMBED_HEAD and MODEL.PANOPTIC_DEEPLAB keys of the system."""
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    add_panoptic_deeplab_config(cfg)
    # Whether results hold semantic logits at their size, as Detectron2's do, or the map of the most likely categories,
    # which takes a fraction of the time and memory and is all that evaluation needs.
    cfg.MODEL.PANOPTIC_DEEPLAB.RETURN_LOGITS = True
    cfg.MODEL.INS_EMBED_HEAD.NAME = "PluginPanopticDeepLabInsEmbedHead"
