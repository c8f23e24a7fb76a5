"""DETR with a panoptic head (https://arxiv.org/abs/2005.12872).

Reading order: network, mask_head, matching, criterion, meta_arch, weights.
"""

import panoptic_plugin.systems.detr.backbone
import panoptic_plugin.systems.detr.meta_arch  # noqa: F401
