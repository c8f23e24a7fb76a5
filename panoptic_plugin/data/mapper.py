"""One mapper for all systems: read, augment, make targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T

from panoptic_plugin.data.copy_paste import CopyPaste, paste_instances
from panoptic_plugin.data.panoptic_json import IGNORE_LABEL
from panoptic_plugin.data.reading import Picture, open_image, open_label, stored_size
from panoptic_plugin.data.transforms import PanopticAugInput, build_augmentations
from panoptic_plugin.errors import ConfigError, DatasetError
from panoptic_plugin.integrity import DEFAULT_MAX_PIXELS
from panoptic_plugin.registry import TARGET_GENERATOR_REGISTRY, lookup

logger = logging.getLogger(__name__)


class PanopticMapper:
    """A dataset dict to what the model takes.

    Args:
        is_train: labels are read and targets made; without it only the image is read.
        augmentations: Detectron2's augmentations, in order.
        image_format: channel order of the image, "RGB" or "BGR".
        target_generator: ``(panoptic_ids, segments_info) -> targets``; None at test time.
        takes_semantic_labels: a dataset that has semantic labels only will do.
        max_pixels: larger images and labels are refused before they are decoded.
        copy_paste: objects of other training images are put into samples; None does not.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        target_generator: Callable[..., dict[str, Any]] | None,
        takes_semantic_labels: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        copy_paste: CopyPaste | None = None,
    ):
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.target_generator = target_generator
        self.takes_semantic_labels = takes_semantic_labels
        self.max_pixels = max_pixels
        self.copy_paste = copy_paste
        logger.info("Augmentations in %s: %s", "training" if is_train else "inference", list(augmentations))

    @classmethod
    def from_config(cls, cfg, is_train: bool = True, records: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
        """``records``: the training images, needed where INPUT.COPY_PASTE_PROB is above 0."""
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if is_train else None
        ignore_label = metadata.get("ignore_label", IGNORE_LABEL) if metadata else IGNORE_LABEL
        name = cfg.INPUT.TARGET_GENERATOR
        make_generator = lookup(TARGET_GENERATOR_REGISTRY, name, "INPUT.TARGET_GENERATOR")
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train, ignore_label),
            "image_format": cfg.INPUT.FORMAT,
            "target_generator": make_generator(cfg, metadata) if is_train else None,
            "takes_semantic_labels": name == "semantic",
            "max_pixels": cfg.INPUT.MAX_IMAGE_PIXELS,
            "copy_paste": _copy_paste(cfg.INPUT.COPY_PASTE_PROB, records, metadata),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one sample.

        Args:
            dataset_dict: Detectron2's dataset dict with ``file_name``, and for training ``pan_seg_file_name`` and
                ``segments_info``, or ``sem_seg_file_name``. It is not changed.

        Returns:
            image uint8 (3, H, W); height and width of the upright image on disk; file_name; image_id; the targets.

        Raises:
            DatasetError: a file is missing, damaged or of the wrong size.
            ConfigError: the targets need a panoptic label and the dataset has none.
        """
        image, ids, segments_info, (height, width) = self._augmented(dataset_dict)
        donor = self.copy_paste.draw_donor() if self.copy_paste else None
        if donor is not None:
            image, ids, segments_info = self._with_pasted(image, ids, segments_info, donor)
        sample = {
            "file_name": dataset_dict["file_name"],
            "image_id": dataset_dict.get("image_id", dataset_dict["file_name"]),
            "height": height,
            "width": width,
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        }
        if self.is_train:
            sample.update(self._targets(ids, segments_info))
        return sample

    def _augmented(self, dataset_dict: dict[str, Any]) -> tuple[np.ndarray, Any, Any, tuple[int, int]]:
        """After the augmentations: image; int32 (H, W) panoptic ids or classes, None at test time; segments, None
        without panoptic ids. And (height, width) before them."""
        mode = "L" if self.image_format == "L" else "RGB"
        picture = open_image(dataset_dict["file_name"], mode, max_pixels=self.max_pixels)
        size = picture.size
        _check_size(dataset_dict, size)
        label, segments_info = self._open_label(dataset_dict, size) if self.is_train else (None, None)
        aug_input = PanopticAugInput(picture, image_format=self.image_format, label=label, segments_info=segments_info)
        self.augmentations(aug_input)
        return aug_input.image, aug_input.ids, segments_info, size

    def _with_pasted(
        self, image: np.ndarray, ids: np.ndarray, segments_info: Any, donor: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """Image, ids and segments with some objects of the donor, which is augmented by itself."""
        donor_image, donor_ids, donor_segments, _ = self._augmented(donor)
        if segments_info is None or donor_segments is None:
            raise ConfigError("INPUT.COPY_PASTE_PROB needs panoptic labels; set it to 0 for a semantic dataset")
        assert self.copy_paste is not None
        chosen = self.copy_paste.choose(donor_segments)
        return paste_instances(image, ids, segments_info, donor_image, donor_ids, chosen)

    def _open_label(self, dataset_dict: dict[str, Any], size: tuple[int, int]) -> tuple[Picture, Any]:
        """The panoptic label and its segments; or the semantic label of a set without panoptic ones, and None."""
        read = partial(open_label, image_path=dataset_dict["file_name"], image_size=size, max_pixels=self.max_pixels)
        if "pan_seg_file_name" in dataset_dict:
            return read(dataset_dict["pan_seg_file_name"], "RGB"), dataset_dict["segments_info"]
        if self.takes_semantic_labels and "sem_seg_file_name" in dataset_dict:
            return read(dataset_dict["sem_seg_file_name"], "L"), None
        raise ConfigError(
            f"{dataset_dict['file_name']}: its dataset has no panoptic label, which INPUT.TARGET_GENERATOR needs; "
            "choose a panoptic dataset in DATASETS.TRAIN, or INPUT.TARGET_GENERATOR semantic for a semantic one"
        )

    def _targets(self, ids: np.ndarray, segments_info: Any) -> dict[str, Any]:
        if segments_info is None:
            return {"sem_seg": torch.from_numpy(ids.astype(np.int64))}
        assert self.target_generator is not None
        return self.target_generator(ids, segments_info)


def _copy_paste(probability: float, records: Sequence[dict[str, Any]] | None, metadata: Any) -> CopyPaste | None:
    if not 0 <= probability <= 1:
        raise ConfigError(f"INPUT.COPY_PASTE_PROB is {probability}, expected a share from 0 to 1")
    if not probability or not records or metadata is None:
        return None
    things = metadata.get("thing_dataset_id_to_contiguous_id", {})
    return CopyPaste(probability=probability, records=records, thing_ids=frozenset(things.values()))


def _check_size(dataset_dict: dict[str, Any], size: tuple[int, int]) -> None:
    """The JSON's size must be the image's, upright or as stored."""
    if "height" not in dataset_dict:
        return
    expected = (dataset_dict["height"], dataset_dict["width"])
    if expected != size and expected != stored_size(dataset_dict["file_name"]):
        raise DatasetError(
            f"image {dataset_dict['file_name']} is {size[0]}x{size[1]} (height x width), but the "
            f"dataset's JSON says {expected[0]}x{expected[1]}; correct the JSON or put the original image back"
        )
