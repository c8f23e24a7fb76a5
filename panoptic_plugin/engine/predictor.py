"""A trained model as a function from images to their segmentations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from panoptic_plugin.config import load_config
from panoptic_plugin.config_merge import check_pairs
from panoptic_plugin.data.catalog import check_dataset_names, register_custom_datasets
from panoptic_plugin.data.reading import read_image
from panoptic_plugin.engine.inference import load_for_inference
from panoptic_plugin.errors import CheckpointError, ConfigError, UserError
from panoptic_plugin.structures import VOID, PanopticResult, number_pixels

logger = logging.getLogger(__name__)

ImageLike = np.ndarray | Image.Image | str | PathLike[str]


class Predictor:
    """Loads a model once and gives its output dicts.

    Args:
        cfg: reads MODEL (with WEIGHTS and DEVICE), TEST.{FOLD_BN, CHANNELS_LAST} and INPUT.{FORMAT, MIN_SIZE_TEST,
            MAX_SIZE_TEST}.

    Raises:
        CheckpointError: weights that are missing, damaged or do not fit the model.
        ConfigError: a name that is not registered, or a device that is not there.
    """

    def __init__(self, cfg: CfgNode):
        self.model = load_for_inference(cfg)
        self._resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self._flip_channels = cfg.INPUT.FORMAT == "BGR"

    def __call__(self, image_rgb: np.ndarray) -> dict[str, Any]:
        """Predict one image.

        Args:
            image_rgb: uint8 (H, W, 3), of any size.

        Returns:
            The model's output dict; its maps have the size of ``image_rgb``.
        """
        return self.predict([image_rgb])[0]

    @torch.no_grad()
    def predict(self, images_rgb: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict images of any sizes, those of one size together.

        A batch pads its images to the largest one, and what is padded changes the result of an image. So only images
        that the network sees in the same size share a batch.

        Returns:
            The model's output dicts in the order of the images.
        """
        samples = [self._sample(image) for image in images_rgb]
        positions: dict[torch.Size, list[int]] = {}
        for position, sample in enumerate(samples):
            positions.setdefault(sample["image"].shape, []).append(position)
        outputs: dict[int, dict[str, Any]] = {}
        for members in positions.values():
            outputs.update(zip(members, self.model([samples[position] for position in members]), strict=True))
        return [outputs[position] for position in range(len(samples))]

    def _sample(self, image_rgb: np.ndarray) -> dict[str, Any]:
        height, width = image_rgb.shape[:2]
        image = image_rgb[:, :, ::-1] if self._flip_channels else image_rgb
        image = self._resize.get_transform(image).apply_image(np.ascontiguousarray(image))
        tensor = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return {"image": tensor.to(self.device), "height": height, "width": width}


class PanopticPredictor:
    """What :func:`load_model` returns: call it with an image or several.

    Attributes:
        metadata: of the dataset whose classes the model knows: names, colours, things.
        batch_size: at most so many images run together.
        confidence_threshold: things of a lower score become void.
        max_pixels: larger image files are refused.
    """

    def __init__(self, cfg: CfgNode, *, batch_size: int = 4, confidence_threshold: float = 0.0):
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more")
        self.metadata = dataset_metadata(cfg)
        self.batch_size = batch_size
        self.confidence_threshold = confidence_threshold
        self.max_pixels = cfg.INPUT.MAX_IMAGE_PIXELS
        self._predictor = Predictor(_lean(cfg))

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._predictor.device

    @overload
    def __call__(self, images: ImageLike) -> PanopticResult: ...

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[PanopticResult]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> PanopticResult | list[PanopticResult]:
        """Segment images.

        Args:
            images: an image or a list of images. Each is a path, a PIL image, or a uint8 RGB array (H, W, 3); sizes
                may differ.

        Returns:
            A result, or a list of results in the order of the images. Maps have the size of the image.

        Raises:
            DatasetError: a file is missing or damaged.
            UserError: an array is no uint8 RGB image.
        """
        if isinstance(images, (np.ndarray, Image.Image, str, PathLike)):
            return self._predict([images])[0]
        results: list[PanopticResult] = []
        for start in range(0, len(images), self.batch_size):
            results += self._predict(images[start : start + self.batch_size])
        return results

    def record_attention(self) -> None:
        """Let results have ``attention``.

        Raises:
            ConfigError: the model has no attention to show.
        """
        model = self._predictor.model
        if not hasattr(model, "keep_attention"):
            raise ConfigError(
                f"a {type(model).__name__} has no attention to show; that is there with MODEL.META_ARCHITECTURE "
                "PanopticDETR"
            )
        model.keep_attention = True

    def read(self, image: ImageLike) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a path, upright; of a PIL image; or the array itself, checked."""
        if isinstance(image, (str, PathLike)):
            return read_image(str(image), "RGB", max_pixels=self.max_pixels)
        pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
        if not isinstance(pixels, np.ndarray):
            raise UserError(f"the image is a {type(pixels).__name__}, expected a path, a PIL image or a NumPy array")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UserError(
                f"the image is an array of {pixels.dtype} {pixels.shape}, expected uint8 (height, width, 3), RGB"
            )
        return pixels

    def _predict(self, images: Sequence[ImageLike]) -> list[PanopticResult]:
        pixels = [self.read(image) for image in images]
        outputs = self._predictor.predict(pixels)
        return [self._result(output, image) for output, image in zip(outputs, pixels, strict=True)]

    def _result(self, output: dict[str, Any], image: np.ndarray) -> PanopticResult:
        result = result_of_output(output, self.metadata)
        result.image = image
        result.attention = output.get("attention")
        return result.confident(self.confidence_threshold)


def load_model(
    config: str | PathLike[str] | CfgNode,
    weights: str | PathLike[str] | None = None,
    *,
    device: str | None = None,
    overrides: Sequence[Any] = (),
    batch_size: int = 4,
    confidence_threshold: float = 0.0,
) -> PanopticPredictor:
    """Load a trained model for prediction.

    Args:
        config: the YAML file it was trained with, or a config.
        weights: its checkpoint; by default the config's MODEL.WEIGHTS.
        device: "cuda", "cuda:1", "cpu"; by default the config's, or the CPU where that is not there.
        overrides: KEY, VALUE, ... of the config.
        batch_size: at most so many images run together.
        confidence_threshold: things whose score is below become void, 0 to 1.

    Raises:
        ConfigError, CheckpointError, DatasetError: see their messages.
    """
    check_pairs(overrides)
    words = [*overrides, *(["MODEL.WEIGHTS", str(weights)] if weights else [])]
    words += ["MODEL.DEVICE", device] if device else []
    if isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        cfg.merge_from_list(words)
    else:
        cfg = load_config(str(config), words)
    if not cfg.MODEL.WEIGHTS:
        raise CheckpointError("no weights: name a trained model with --weights PATH, or weights= in Python")
    if not device and torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but PyTorch sees no CUDA device; the CPU is used", cfg.MODEL.DEVICE)
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
    return PanopticPredictor(cfg, batch_size=batch_size, confidence_threshold=confidence_threshold)


def dataset_metadata(cfg: CfgNode) -> Any:
    """The metadata of the dataset whose classes a model of this config knows; registers DATASETS.CUSTOM."""
    register_custom_datasets(cfg)
    check_dataset_names(cfg)
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if not names:
        raise ConfigError("DATASETS.TEST is empty; name the dataset whose classes the model knows")
    return MetadataCatalog.get(names[0])


def result_of_output(output: dict[str, Any], metadata: Any) -> PanopticResult:
    """A model's output dict as a result.

    Args:
        output: ``panoptic_seg`` is (int (H, W) tensor, segments or None); ``segments_info`` where that is None.
        metadata: of the dataset.
    """
    panoptic, listed = output["panoptic_seg"]
    ids = panoptic.cpu().numpy().astype(np.int32)
    divisor = int(getattr(metadata, "label_divisor", 1000))
    things = set((getattr(metadata, "thing_dataset_id_to_contiguous_id", None) or {}).values())
    segments = output.get("segments_info") or listed
    if segments is None:
        present = np.flatnonzero(np.bincount(np.maximum(ids, VOID).ravel() + 1)[1:]).tolist()
        segments = [{"id": one, "category_id": one // divisor} for one in present]
    if any(one["id"] // divisor != one["category_id"] for one in segments):
        ids, segments = _renumber(ids, segments, divisor, things)
    areas = np.bincount(number_pixels(ids, [one["id"] for one in segments]).ravel(), minlength=len(segments) + 1)
    complete = [
        {
            **one,
            "isthing": bool(one.get("isthing", one["category_id"] in things)),
            "area": area,
            "score": None if one.get("score") is None else float(one["score"]),
        }
        for one, area in zip(segments, areas[1:].tolist(), strict=True)
    ]
    return PanopticResult(ids, complete, divisor, metadata)


def _renumber(
    ids: np.ndarray, segments: Sequence[dict[str, Any]], divisor: int, things: set[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Ids ``category * divisor + instance`` in place of any others; what no segment lists is void."""
    seen: dict[int, int] = {}
    renamed = []
    for segment in segments:
        category = int(segment["category_id"])
        seen[category] = seen.get(category, 0) + int(category in things)
        renamed.append({**segment, "id": category * divisor + seen[category]})
    table = np.array([VOID, *(one["id"] for one in renamed)], dtype=np.int32)
    return table[number_pixels(ids, [one["id"] for one in segments])], renamed


def _lean(cfg: CfgNode) -> CfgNode:
    """Without the outputs that a result does not need: logits of the full size, a mask an instance."""
    cfg = cfg.clone()
    cfg.defrost()
    model = cfg.MODEL
    keys = ((model.PANOPTIC_DEEPLAB, "RETURN_LOGITS"), (model.PANOPTIC_DEEPLAB, "PREDICT_INSTANCES"),
            (model.SOLOV2, "PREDICT_INSTANCES"), (model.DETR.TEST, "INSTANCE_ON"))  # fmt: skip
    for section, key in keys:
        if key in section:
            section[key] = False
    return cfg
