"""What the meta-architectures share: images in, results in Detectron2's format out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.instances import instances_of_panoptic
from panoptic_plugin.registry import lookup
from panoptic_plugin.systems.timer import StageTimer

Batch = Sequence[Mapping[str, Any]]


def build_named_backbone(cfg: CfgNode) -> Backbone:
    """Detectron2's ``build_backbone`` with an error that lists what MODEL.BACKBONE.NAME can be."""
    lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    return build_backbone(cfg)


def build_named_sem_seg_head(cfg: CfgNode, input_shape: Mapping[str, Any]) -> nn.Module:
    """Detectron2's ``build_sem_seg_head`` with an error that lists what MODEL.SEM_SEG_HEAD.NAME can be."""
    lookup(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
    return build_sem_seg_head(cfg, input_shape)


class PanopticSystem(nn.Module):
    """Base of the meta-architectures: normalises and pads images, stacks targets, assembles results.

    Attributes:
        timer: times of the stages of inference, recorded where it is enabled; see :class:`StageTimer`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        timer_enabled: bool = False,
    ) -> None:
        """
        Args:
            backbone: features by name from float (N, 3, H, W); None where a system has its own in another part, which
                needs a positive ``size_divisibility``.
            pixel_mean: one number a channel, in the channel order of the images.
            pixel_std: the same.
            size_divisibility: images are padded to multiples of it; not positive means what the backbone asks for.
            timer_enabled: whether inference is timed.
        """
        super().__init__()
        self.backbone = backbone
        # Not persistent: a checkpoint holds weights, the config holds the normalisation.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        asked_for = 0 if backbone is None else backbone.size_divisibility
        self.size_divisibility = size_divisibility if size_divisibility > 0 else asked_for
        self.timer = StageTimer(enabled=timer_enabled)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def images(self, batch: Batch) -> ImageList:
        """Normalised images, padded with 0 at the bottom and right: float (N, 3, H, W)."""
        normalised = [(sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std for sample in batch]
        return ImageList.from_tensors(normalised, self.size_divisibility)

    def targets(self, batch: Batch, key: str, pad_value: float = 0.0) -> torch.Tensor:
        """The targets ``key``, padded as the images are: (N, ..., H, W).

        Raises:
            ConfigError: the batch has none.
        """
        if key not in batch[0]:
            raise ConfigError(
                f"the training batch has no {key!r} but {sorted(batch[0])}; INPUT.TARGET_GENERATOR does not make the "
                f"targets that MODEL.META_ARCHITECTURE {type(self).__name__} needs"
            )
        stacked = [sample[key].to(self.device, non_blocking=True) for sample in batch]
        return ImageList.from_tensors(stacked, self.size_divisibility, pad_value).tensor


def output_size(sample: Mapping[str, Any], image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that a result is wanted in: the sample's ``height`` and ``width``, else the image's own."""
    return int(sample.get("height", image_size[0])), int(sample.get("width", image_size[1]))


def size_ratio(size: tuple[int, int], image_size: tuple[int, int]) -> float:
    """How many times as wide and high a result is as the network input, by the square root of their areas."""
    return math.sqrt(math.prod(size) / math.prod(image_size))


def panoptic_output(
    semantic: torch.Tensor,
    panoptic: torch.Tensor,
    segments: Sequence[dict[str, Any]],
    *,
    predict_instances: bool,
    thing_pixels: torch.Tensor | None = None,
) -> dict[str, Any]:
    """One image's result.

    Args:
        semantic: float (C, H, W) logits, or integer (H, W) categories.
        panoptic: int64 (H, W), ``category * label_divisor + instance``, void -1.
        segments: dicts with id, category_id, isthing, area, score, center_yx.
        predict_instances: whether masks of the things are wanted too.
        thing_pixels: positions y * W + x among which all pixels of things are, where they are known; saves a search.

    Returns:
        ``sem_seg``, ``panoptic_seg`` as (ids, None), because Detectron2's evaluators and drawing read the ids by
        themselves only without segments, ``segments_info``, and ``instances`` where wanted.
    """
    result: dict[str, Any] = {
        "sem_seg": semantic,
        "panoptic_seg": (panoptic, None),
        "segments_info": list(segments),
    }
    if predict_instances:
        result["instances"] = instances_of_panoptic(panoptic, segments, thing_pixels)
    return result
