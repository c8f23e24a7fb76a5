"""Augmentations: Detectron2's in the order the config asks for, and what Detectron2 lacks.

Images are resized and cropped in one go, :class:`ResizedCrop`. A label is resized as it lies on disk, as colours or
classes, because Detectron2 resizes uint8 labels with Pillow's nearest neighbour and any other type with a different
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList

from panoptic_plugin.data.reading import Picture
from panoptic_plugin.data.window import Window
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.structures import rgb_to_ids

JITTER = (0.8, 1.2)
# Of the official DETR: lengths of the shorter edge before a crop, and the crop's least and greatest edge.
DETR_EDGES, DETR_CROP = [400, 500, 600], (384, 600)


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

    Both are files first. They become arrays when :class:`ResizedCrop` cuts its window out of them, or when another
    augmentation asks for ``image`` or ``sem_seg``.

    Args:
        picture: the image, of mode L for the format "L" and of mode RGB for the others.
        image_format: "RGB", "BGR" or "L".
        label: panoptic colours (mode RGB), classes (mode L or P), or None.
        segments_info: the segments of a panoptic label; None with any other.

    Attributes:
        image: uint8 (H, W, 3), or (H, W, 1) for "L".
        sem_seg: of a panoptic label uint8 (H, W, 3) colours, int32 (H, W) ids after :class:`ResizedCrop`; else uint8
            (H, W) classes; None without a label.
    """

    def __init__(
        self,
        picture: Picture,
        *,
        image_format: str,
        label: Picture | None = None,
        segments_info: Sequence[dict[str, Any]] | None = None,
    ):
        self.picture = picture
        self.image_format = image_format
        self.label = label
        self.segments_info = segments_info
        self.boxes = None

    # Computed at the first look, and set by ``transform`` of the base class like any attribute.
    @cached_property
    def image(self) -> np.ndarray:
        return detection_utils.convert_PIL_to_numpy(self.picture.decode(), self.image_format)

    @cached_property
    def sem_seg(self) -> np.ndarray | None:
        return None if self.label is None else np.asarray(self.label.decode())

    @property
    def ids(self) -> np.ndarray | None:
        """The label as int32 (H, W): panoptic ids or classes."""
        if self.sem_seg is None:
            return None
        return rgb_to_ids(self.sem_seg) if self.sem_seg.ndim == 3 else self.sem_seg.astype(np.int32, copy=False)

    def cut(self, window: Window) -> None:
        """Leave this window of the resized picture and label, which nobody may have looked at before."""
        self.image = detection_utils.convert_PIL_to_numpy(window.of_image(self.picture), self.image_format)
        self.sem_seg = None if self.label is None else window.of_label(self.label)


class ResizedCrop(T.Augmentation):
    """Detectron2's ResizeShortestEdge and RandomCrop in one, which computes the pixels of the crop alone.

    Same random numbers, same pixels, bit by bit; see :mod:`panoptic_plugin.data.window`. It has to come first.

    Args:
        resize, crop: what is done in one; without a crop the whole is resized.
    """

    def __init__(self, resize: T.ResizeShortestEdge, crop: T.RandomCrop | None = None):
        super().__init__()
        self.resize = resize
        self.crop = crop

    def __call__(self, aug_input: PanopticAugInput) -> TransformList:
        source = aug_input.picture.size
        resize = self.resize.get_transform(_blank(source))
        resized = source if isinstance(resize, T.NoOpTransform) else (resize.new_h, resize.new_w)
        crop = self.crop.get_transform(_blank(resized)) if self.crop else T.CropTransform(0, 0, *resized[::-1])
        aug_input.cut(Window(source, resized, crop.y0, crop.x0, crop.h, crop.w))
        return TransformList([resize, crop])


def _blank(size: tuple[int, int]) -> np.ndarray:
    """An image for augmentations that ask for nothing but its size; it takes no memory."""
    return np.broadcast_to(np.uint8(0), (*size, 3))


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

    def get_transform(self, image: np.ndarray, ids: np.ndarray, segments_info: Any) -> Transform:
        transform = self.crop.get_transform(image)
        for _ in range(9):
            if self._is_mixed(transform.apply_segmentation(ids), segments_info):
                break
            transform = self.crop.get_transform(image)
        return transform

    def _is_mixed(self, ids: np.ndarray, segments_info: Any) -> bool:
        values, counts = np.unique(ids, return_counts=True)
        if segments_info is not None:
            category = {segment["id"]: segment["category_id"] for segment in segments_info}
            values = np.array([category.get(int(value), self.ignore_label) for value in values])
        area = {c: int(counts[values == c].sum()) for c in np.unique(values) if c != self.ignore_label}
        return len(area) > 1 and max(area.values()) < sum(area.values()) * self.max_area


def build_augmentations(cfg, is_train: bool, ignore_label: int) -> list[T.Augmentation]:
    """Resize, crop, turn, flip, colours: what ``INPUT.*`` asks for.

    At test time, and without ``INPUT.AUGMENT``, the resizing of tests alone.
    """
    if not is_train or not cfg.INPUT.AUGMENT:
        return [ResizedCrop(T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST))]
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sampling)
    crop, max_area = cfg.INPUT.CROP, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
    augmentations: list[T.Augmentation]
    if crop.ENABLED and max_area < 1.0:  # looks at the whole of the resized label
        augmentations = [ResizedCrop(resize), RandomCategoryCrop(crop.TYPE, crop.SIZE, max_area, ignore_label)]
    else:
        augmentations = [ResizedCrop(resize, T.RandomCrop(crop.TYPE, crop.SIZE) if crop.ENABLED else None)]
    if cfg.INPUT.DETR_CROP:
        first = [T.ResizeShortestEdge(DETR_EDGES, sample_style="choice"), T.RandomCrop("absolute_range", DETR_CROP)]
        augmentations.insert(0, T.RandomApply(T.AugmentationList(first), prob=0.5))
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
