"""What to validate: a dataset's files and how thoroughly to look at them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.integrity import DEFAULT_MAX_PIXELS
from panoptic_plugin.registry import suggestion

FULL, FAST, OFF = "full", "fast", "off"
DEPTHS = (FULL, FAST, OFF)
# Meta-architecture -> section of MODEL and key that say how many segments a model can predict, and whether these are
# things only.
_CENTERS = ("PANOPTIC_DEEPLAB", "TOP_K_INSTANCE", True)
CAPACITIES = {
    "PanopticDeepLab": _CENTERS,
    "PluginPanopticDeepLab": _CENTERS,
    "PluginJointPanoptic": _CENTERS,
    "PanopticDETR": ("DETR", "NUM_OBJECT_QUERIES", False),
}


@dataclass(frozen=True)
class Source:
    """A dataset in COCO panoptic format.

    Attributes:
        name: for the reader.
        panoptic_json, image_root, panoptic_root: paths.
        semantic_root: folder of semantic PNGs with the names of the panoptic ones, or None.
    """

    name: str
    panoptic_json: str
    image_root: str
    panoptic_root: str
    semantic_root: str | None = None


@dataclass(frozen=True)
class Settings:
    """How to look.

    Attributes:
        depth: "full" decodes every pixel; "fast" reads headers and the JSON only.
        max_pixels: the pixel budget of an image or label.
        max_segments: how many segments the model can predict, None where no config says so.
        max_segments_key: the config key that says so.
        things_only: stuff does not count towards ``max_segments``.
        num_workers: threads; None is one a core, at most 8.
    """

    depth: str = FULL
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_segments: int | None = None
    max_segments_key: str = ""
    things_only: bool = True
    num_workers: int | None = None

    @property
    def num_threads(self) -> int:
        return self.num_workers or min(8, os.cpu_count() or 1)


def source_of(name: str) -> Source | None:
    """The files of a registered dataset; None where it is not panoptic.

    Raises:
        ConfigError: nothing of this name is registered.
    """
    known = sorted(DatasetCatalog.list())
    if name not in known:
        raise ConfigError(
            f"no dataset {name!r} is registered. {suggestion(name, known)} Describe it in DATASETS.CUSTOM of a "
            "--config-file, or give --json, --images and --panoptic"
        )
    metadata = MetadataCatalog.get(name)
    panoptic_json, images, labels = (metadata.get(key) for key in ("panoptic_json", "image_root", "panoptic_root"))
    if not (panoptic_json and images and labels):
        return None
    return Source(name, str(panoptic_json), str(images), str(labels), metadata.get("sem_seg_root"))


def settings_of(cfg, depth: str = FULL, num_workers: int | None = None) -> Settings:
    """What a config says about the pixel budget and the number of segments a model can predict."""
    limit, key, things_only = _capacity(cfg)
    return Settings(depth, cfg.INPUT.MAX_IMAGE_PIXELS, limit, key, things_only, num_workers)


def _capacity(cfg) -> tuple[int | None, str, bool]:
    if cfg.MODEL.META_ARCHITECTURE not in CAPACITIES:
        return None, "", True
    section, key, things_only = CAPACITIES[cfg.MODEL.META_ARCHITECTURE]
    return cfg.MODEL[section][key], f"MODEL.{section}.{key}", things_only
