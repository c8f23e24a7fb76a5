"""Registers the test-time augmentation of the joint network."""

from __future__ import annotations

from panoptic_plugin.registry import TTA_REGISTRY
from panoptic_plugin.systems.center_offset_tta import CenterOffsetTTA


@TTA_REGISTRY.register()
class PluginJointPanopticWithTTA(CenterOffsetTTA):
    """See :class:`~panoptic_plugin.systems.center_offset_tta.CenterOffsetTTA`."""
