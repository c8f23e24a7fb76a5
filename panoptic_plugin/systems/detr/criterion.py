"""The set criterion of DETR (https://arxiv.org/abs/2005.12872, sections 3.1 and 4.4).

Targets of an image are a dict: ``labels`` int64 (T,) head slots, ``boxes`` float (T, 4) cxcywh in parts of the image,
``segment_index`` integers (h, w), 0 where there is no segment and t + 1 on segment t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.utils import comm
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from panoptic_plugin.losses.query_masks import dice_loss, focal_mask_loss
from panoptic_plugin.systems.detr.matching import Pairs, corners, match
from panoptic_plugin.systems.detr.network import QueryOutputs

Targets = Sequence[Mapping[str, torch.Tensor]]
Losses = dict[str, torch.Tensor]
# Mask logits for the queries of each image.
MakeMasks = Callable[[Sequence[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class LossWeights:
    """How losses are weighted in the total; those of the costs decide the matching alone."""

    cls: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    mask: float = 1.0
    dice: float = 1.0
    cost_class: float = 1.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    no_object: float = 0.1


class SetCriterion:
    """Losses of matched queries.

    Args:
        num_classes: C; the index of "no object".
        weights: of losses and costs.
        deep_supervision: whether the decoder layers before the last one have losses, too.
        masks: ``"matched"``, or ``"all"`` to run the mask head on all queries as the official training does; the losses
            are the same.
    """

    def __init__(
        self, *, num_classes: int, weights: LossWeights, deep_supervision: bool = True, masks: str = "matched"
    ) -> None:
        self.num_classes = num_classes
        self.weights = weights
        self.deep_supervision = deep_supervision
        self.mask_queries = masks

    def boxes(self, outputs: QueryOutputs, targets: Targets) -> tuple[Losses, dict[str, Any], list[Pairs]]:
        """Losses of classes and boxes.

        Returns:
            the weighted losses by name; numbers that are no losses; and the pairs of the last layer, one an image.
        """
        total = num_segments(targets, outputs.logits.device)
        num_layers = len(outputs.logits)
        losses: Losses = {}
        scalars: dict[str, Any] = {}
        pairs: list[Pairs] = []
        for layer in range(num_layers) if self.deep_supervision else [num_layers - 1]:
            logits, boxes = outputs.logits[layer].float(), outputs.boxes[layer].float()
            pairs = self._match(logits, boxes, targets)
            suffix = "" if layer == num_layers - 1 else f"_{layer}"
            found = self._of_layer(logits, boxes, targets, pairs, total)
            losses |= {f"{name}{suffix}": value for name, value in found.items()}
            scalars[f"cardinality_error{suffix}"] = _cardinality_error(logits, targets)
        scalars["class_error"] = _class_error(outputs.logits[-1], targets, pairs)
        return losses, scalars, pairs

    def _match(self, logits: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> list[Pairs]:
        weights = self.weights
        assign = partial(match, cost_class=weights.cost_class, cost_bbox=weights.cost_bbox, cost_giou=weights.cost_giou)
        per_image = zip(logits, boxes, targets, strict=True)
        return [assign(some, where, target["labels"], target["boxes"]) for some, where, target in per_image]

    def _of_layer(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        targets: Targets,
        pairs: Sequence[Pairs],
        total: torch.Tensor,
    ) -> Losses:
        wanted = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for row, (queries, segments), target in zip(wanted, pairs, targets, strict=True):
            row[queries] = target["labels"][segments]
        balance = torch.ones(self.num_classes + 1, device=logits.device)
        balance[-1] = self.weights.no_object
        matched = torch.cat([image[queries] for image, (queries, _) in zip(boxes, pairs, strict=True)])
        true = torch.cat([target["boxes"][segments] for target, (_, segments) in zip(targets, pairs, strict=True)])
        giou = generalized_box_iou_loss(corners(matched), corners(true.float()), eps=0.0)
        return {
            "loss_ce": self.weights.cls * F.cross_entropy(logits.transpose(1, 2), wanted, balance),
            "loss_bbox": self.weights.l1 * (matched - true).abs().sum() / total,
            "loss_giou": self.weights.giou * giou.sum() / total,
        }

    def masks(
        self, make_masks: MakeMasks, targets: Targets, pairs: Sequence[Pairs], num_queries: int, size: tuple[int, int]
    ) -> Losses:
        """Focal and Dice losses of the matched queries' masks, in the size of the padded images.

        Padding counts as background, as in the official training.

        Args:
            make_masks: logits (M, H2, W2) of chosen queries.
            targets: of the images.
            pairs: of the last decoder layer.
            num_queries: Q.
            size: (H, W) of the padded images.
        """
        chosen = [queries for queries, _ in pairs]
        device = targets[0]["labels"].device
        if self.mask_queries == "all":
            everything = make_masks([torch.arange(num_queries, device=device)] * len(pairs))
            offsets = torch.cat([queries + number * num_queries for number, queries in enumerate(chosen)])
            logits = everything.index_select(0, offsets)
        else:
            logits = make_masks(chosen)
        true = torch.cat(
            [
                _true_masks(target["segment_index"], segments, size)
                for target, (_, segments) in zip(targets, pairs, strict=True)
            ]
        )
        total = num_segments(targets, device)
        if not len(logits):
            # No segment: a sum over nothing keeps the mask head in the graph, which several processes rely on.
            nothing = logits.float().sum()
            return {"loss_mask": nothing, "loss_dice": nothing}
        logits = F.interpolate(logits.float()[:, None], size=size, mode="bilinear", align_corners=False)
        flat, true = logits.flatten(1), true.flatten(1).to(logits.dtype)
        return {
            "loss_mask": self.weights.mask * focal_mask_loss(flat, true, total),
            "loss_dice": self.weights.dice * dice_loss(flat, true, total),
        }


def num_segments(targets: Targets, device: torch.device) -> torch.Tensor:
    """Segments of the batch, the mean over the processes, at least 1: float ()."""
    total = torch.tensor(float(sum(len(target["labels"]) for target in targets)), device=device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1)


def _true_masks(segment_index: torch.Tensor, segments: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """bool (P, H, W): the masks of some segments, padded."""
    height, width = segment_index.shape
    masks = segment_index[None] == (segments + 1).to(segment_index.dtype)[:, None, None]
    return F.pad(masks, (0, size[1] - width, 0, size[0] - height))


@torch.no_grad()
def _cardinality_error(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """How far the number of queries that say "object" is from the number of segments, mean over the images."""
    found = (logits.argmax(dim=-1) != logits.shape[-1] - 1).sum(dim=1).float()
    true = torch.tensor([float(len(target["labels"])) for target in targets], device=logits.device)
    return (found - true).abs().mean()


@torch.no_grad()
def _class_error(logits: torch.Tensor, targets: Targets, pairs: Sequence[Pairs]) -> torch.Tensor:
    """Percent of the matched queries whose most likely slot is another one than their segment's."""
    right = [
        image[queries].argmax(dim=-1) == target["labels"][segments]
        for image, target, (queries, segments) in zip(logits, targets, pairs, strict=True)
    ]
    hits = torch.cat(right).float()
    return 100 - 100 * hits.mean() if len(hits) else logits.new_zeros(())
