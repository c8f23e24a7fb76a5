"""Registers the test-time augmentation of Panoptic-DeepLab."""

from __future__ import annotations

from panoptic_plugin.registry import TTA_REGISTRY
from panoptic_plugin.systems.center_offset_tta import CenterOffsetTTA


@TTA_REGISTRY.register()
class PluginPanopticDeepLabWithTTA(CenterOffsetTTA):
    """See :class:`~panoptic_plugin.systems.center_offset_tta.CenterOffsetTTA`."""
