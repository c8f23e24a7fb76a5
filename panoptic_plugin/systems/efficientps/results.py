"""Semantic logits and masks of one image to its result in the format of all systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from panoptic_plugin.postprocessing.enlarged_masks import enlarged_masks
from panoptic_plugin.postprocessing.fusion import fuse
from panoptic_plugin.postprocessing.mask_boxes import boxes_of_masks
from panoptic_plugin.postprocessing.resize import to_output_size
from panoptic_plugin.systems.efficientps.solov2_masks import SOLOv2Masks

Size = tuple[int, int]


class MaskResults:
    """What semantic logits and masks become.

    Args:
        thing_ids: contiguous ids of the things in ascending order; the first is class 0 of the masks.
        label_divisor: ``panoptic id = category * label_divisor + instance``.
        mask_threshold: an instance is where its probability is higher.
        predict_instances: whether results hold ``instances``.
        return_fused_logits: whether results hold ``fused_logits``.
        fusion_arguments: further ones of :func:`~panoptic_plugin.postprocessing.fusion.fuse`.
    """

    def __init__(
        self,
        *,
        thing_ids: Sequence[int],
        label_divisor: int,
        mask_threshold: float,
        predict_instances: bool,
        return_fused_logits: bool,
        fusion_arguments: Mapping[str, Any],
    ) -> None:
        self.thing_ids = tuple(thing_ids)
        self.label_divisor = label_divisor
        self.mask_threshold = mask_threshold
        self.predict_instances = predict_instances
        self.return_fused_logits = return_fused_logits
        self.fusion_arguments = dict(fusion_arguments)

    def of_image(
        self,
        semantic: torch.Tensor,
        masks: SOLOv2Masks,
        *,
        image_size: Size,
        padded_size: Size,
        size: Size,
        return_logits: bool = True,
    ) -> dict[str, Any]:
        """One image's result.

        Args:
            semantic: float (C, h, w), logits at stride 4 of the padded image.
            masks: logits of the same size, classes and scores.
            image_size, padded_size, size: (height, width) of the image as the network saw it, without and with its
                padding, and of the result.
            return_logits: whether ``sem_seg`` is float (C, H, W), or int64 (H, W).

        Returns:
            ``panoptic_seg`` (ids, None) as ``category * label_divisor + instance``, void -1; ``segments_info``;
            ``sem_seg``, the logits or the likeliest categories; ``instances`` with pred_masks, pred_boxes, pred_classes
            (contiguous categories) and scores where wanted; ``fused_logits`` float (stuff classes + instances, H, W)
            where wanted.
        """
        sizes = {"image_size": image_size, "padded_size": padded_size, "size": size}
        full = _enlarge(semantic.float(), **sizes)
        categories = torch.tensor(self.thing_ids, dtype=torch.int64, device=masks.classes.device)[masks.classes]
        candidates = masks.scores > self.fusion_arguments["score_threshold"]
        panoptic, segments, fused = fuse(
            full,
            _enlarge(masks.logits[candidates], **sizes),
            categories[candidates],
            masks.scores[candidates],
            thing_ids=self.thing_ids,
            label_divisor=self.label_divisor,
            return_logits=self.return_fused_logits,
            **self.fusion_arguments,
        )
        result: dict[str, Any] = {
            "sem_seg": full if return_logits else full.argmax(dim=0),
            "panoptic_seg": (panoptic, None),
            "segments_info": segments,
        }
        if self.predict_instances:
            result["instances"] = self._instances(masks, categories, **sizes)
        if self.return_fused_logits:
            result["fused_logits"] = fused
        return result

    def _instances(self, masks: SOLOv2Masks, categories: torch.Tensor, **sizes: Size) -> Instances:
        """The masks before the fusion, which may overlap; those without a pixel are left out."""
        found = enlarged_masks(masks.logits.sigmoid(), self.mask_threshold, **sizes)
        kept = found.flatten(1).any(dim=1)
        result = Instances(sizes["size"])
        result.pred_masks = found if bool(kept.all()) else found[kept]
        result.pred_boxes = _boxes(result.pred_masks)
        result.pred_classes = categories[kept]
        result.scores = masks.scores[kept]
        return result


def _boxes(masks: torch.Tensor) -> Boxes:
    # As Detectron2's BitMasks.get_bounding_boxes, which looks at each mask by itself: x0, y0, x1, y1, the last two one
    # past the last pixel.
    boxes = [(box.left, box.top, box.right, box.bottom) for box in boxes_of_masks(masks.view(torch.uint8))]
    return Boxes(torch.tensor(boxes, dtype=torch.float32, device=masks.device).reshape(-1, 4))


def _enlarge(maps: torch.Tensor, *, image_size: Size, padded_size: Size, size: Size) -> torch.Tensor:
    """float (M, h, w) at stride 4 of the padded image to (M, *size)."""
    if not len(maps):
        return maps.new_zeros((0, *size))
    padded = F.interpolate(maps[None], size=padded_size, mode="bilinear", align_corners=False)[0]
    return to_output_size(padded, image_size, size)
