"""Config keys of the heads that two systems share, beside Detectron2's own MODEL.SEM_SEG_HEAD."""

from __future__ import annotations

from detectron2.config import CfgNode

from panoptic_plugin.losses.semantic import OHEM_MIN_KEPT, OHEM_THRESHOLD


def add_head_config(cfg: CfgNode) -> None:
    """Add the keys of the OCR head and of the OHEM loss to a config that holds Detectron2's defaults."""
    head = cfg.MODEL.SEM_SEG_HEAD
    # LOSS_TYPE "ohem": pixels whose true class is less probable than OHEM_THRESH have a loss, and in any case the
    # OHEM_MIN_KEPT least probable ones of a batch on one device.
    head.OHEM_THRESH = OHEM_THRESHOLD
    head.OHEM_MIN_KEPT = OHEM_MIN_KEPT
    # PluginHRNetOCRHead: channels of the pixels' features, and of the keys that pixels and regions are compared by.
    head.OCR = CfgNode({"MID_CHANNELS": 512, "KEY_CHANNELS": 256, "DROPOUT": 0.05})
    # Weight of the loss of the auxiliary output, whose classes are the regions.
    head.OCR.AUX_WEIGHT = 0.4
    # Upsampling from corner to corner, as HRNet's published weights were trained with; NVIDIA's need False, and
    # MODEL.HRNET.ALIGN_CORNERS False too.
    head.OCR.ALIGN_CORNERS = True
