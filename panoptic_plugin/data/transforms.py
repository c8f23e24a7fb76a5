"""Augmentations: Detectron2's in the order the config asks for, and what Detectron2 lacks.

Labels travel through them as they lie on disk, (H, W, 3) colours or (H, W) classes, because Detectron2 resizes
uint8 labels with Pillow's nearest neighbour and any other type with a different rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.structures import rgb_to_ids

JITTER = (0.8, 1.2)


class Rotate90Transform(Transform):
    """``turns`` quarter turns against the clock, of an image of (height, width)."""

    def __init__(self, turns: int, height: int, width: int):
        super().__init__()
        self.turns = turns % 4
        self.height = height
        self.width = width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(img, self.turns))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) points, x first, as Detectron2 has them."""
        x, y = coords[:, 0], coords[:, 1]
        turned = {0: (x, y), 1: (y, self.width - x), 2: (self.width - x, self.height - y), 3: (self.height - y, x)}
        return np.stack(turned[self.turns], axis=1)

    def inverse(self) -> Transform:
        height, width = (self.width, self.height) if self.turns % 2 else (self.height, self.width)
        return Rotate90Transform(-self.turns, height, width)


class RandomRotate90(T.Augmentation):
    """0, 1, 2 or 3 quarter turns, each as likely: for images without an up side."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return Rotate90Transform(np.random.randint(4), *image.shape[:2])


class PanopticAugInput(T.AugInput):
    """Image and label, and the label's segments for those augmentations that look at classes.

    Args:
        image: uint8 (H, W, 3).
        label: uint8 (H, W, 3) panoptic colours, uint8 (H, W) classes, or None.
        segments_info: the segments of a panoptic label.
    """

    def __init__(self, image: np.ndarray, label: np.ndarray | None = None, segments_info: Any = ()):
        super().__init__(image, sem_seg=label)
        self.segments_info = segments_info


class RandomCategoryCrop(T.Augmentation):
    """A random crop in which no class takes more than a part of the labelled area.

    As Detectron2's ``RandomCrop_CategoryAreaConstraint``: ten tries, the last one counts. That one compares raw
    label values, so it knows nothing of the classes of a panoptic label; this one does.

    Args:
        crop_type, crop_size: as :class:`detectron2.data.transforms.RandomCrop` takes them.
        max_area: largest part of a single class, above 0 and below 1.
        ignore_label: class that is not counted.
    """

    def __init__(self, crop_type: str, crop_size: Any, max_area: float, ignore_label: int):
        super().__init__()
        self.crop = T.RandomCrop(crop_type, crop_size)
        self.max_area = max_area
        self.ignore_label = ignore_label

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray, segments_info: Any) -> Transform:
        transform = self.crop.get_transform(image)
        for _ in range(9):
            if self._is_mixed(transform.apply_segmentation(sem_seg), segments_info):
                break
            transform = self.crop.get_transform(image)
        return transform

    def _is_mixed(self, label: np.ndarray, segments_info: Any) -> bool:
        values, counts = np.unique(rgb_to_ids(label) if label.ndim == 3 else label, return_counts=True)
        if label.ndim == 3:
            category = {segment["id"]: segment["category_id"] for segment in segments_info}
            values = np.array([category.get(int(value), self.ignore_label) for value in values])
        area = {c: int(counts[values == c].sum()) for c in np.unique(values) if c != self.ignore_label}
        return len(area) > 1 and max(area.values()) < sum(area.values()) * self.max_area


def build_augmentations(cfg, is_train: bool, ignore_label: int) -> list[T.Augmentation]:
    """Resize, crop, turn, flip, colours: what ``INPUT.*`` asks for. At test time the resizing alone."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    augmentations = [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sampling)]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(_build_crop(cfg, ignore_label))
    if cfg.INPUT.ROTATE90:
        augmentations.append(RandomRotate90())
    if cfg.INPUT.RANDOM_FLIP not in ("horizontal", "vertical", "none"):
        raise ConfigError(f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP!r}, expected horizontal, vertical or none")
    if cfg.INPUT.RANDOM_FLIP != "none":
        is_vertical = cfg.INPUT.RANDOM_FLIP == "vertical"
        augmentations.append(T.RandomFlip(horizontal=not is_vertical, vertical=is_vertical))
    if cfg.INPUT.COLOR_JITTER:
        augmentations += [T.RandomBrightness(*JITTER), T.RandomContrast(*JITTER), T.RandomSaturation(*JITTER)]
    return augmentations


def _build_crop(cfg, ignore_label: int) -> T.Augmentation:
    max_area = cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
    if max_area < 1.0:
        return RandomCategoryCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE, max_area, ignore_label)
    return T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)
