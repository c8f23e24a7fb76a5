"""Panoptic-DeepLab (https://arxiv.org/abs/1911.10194). Importing registers its meta-architecture and heads."""

from panoptic_plugin.systems.panoptic_deeplab import heads, meta_arch, tta  # noqa: F401
