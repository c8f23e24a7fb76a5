"""Queries to results in the format of all systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from panoptic_plugin.postprocessing.query_masks import keep_queries, merge_query_masks
from panoptic_plugin.systems.detr.matching import corners

VOID = -1
Size = tuple[int, int]


class Sizes(NamedTuple):
    """(height, width) of an image as the network saw it, without and with its padding, and of the result."""

    image: Size
    padded: Size
    output: Size


class QueryResults:
    """What a model's queries become.

    Args:
        slots: contiguous category -> slot of the class head.
        thing_ids: contiguous ids of the things.
        num_slots: C of the class head.
        label_divisor: ``panoptic id = category * label_divisor + instance``.
        keep_threshold: a query is kept where its best class is more likely.
        merge_arguments: ``min_area``, ``stuff_merge`` and ``padded_masks`` of
            :func:`~panoptic_plugin.postprocessing.query_masks.merge_query_masks`.
        instance_threshold: things whose best class is more likely are instances.
        predict_instances: whether results hold ``instances``.
    """

    def __init__(
        self,
        *,
        slots: Mapping[int, int],
        thing_ids: frozenset[int],
        num_slots: int,
        label_divisor: int,
        keep_threshold: float,
        merge_arguments: Mapping[str, Any],
        instance_threshold: float,
        predict_instances: bool,
    ) -> None:
        self.label_divisor = label_divisor
        self.keep_threshold = keep_threshold
        self.merge_arguments = dict(merge_arguments)
        self.instance_threshold = instance_threshold
        self.predict_instances = predict_instances
        self._category_of, self._thing_slots = _slot_tables(slots, thing_ids, num_slots)

    def chosen(self, logits: torch.Tensor) -> torch.Tensor:
        """Queries of one image whose masks are needed, in ascending order: int64 (M,)."""
        wanted = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        wanted[keep_queries(logits, self.keep_threshold)[0]] = True
        if self.predict_instances:
            wanted |= self._instances_among(logits.float().softmax(dim=-1))[0]
        return wanted.nonzero()[:, 0]

    def _instances_among(self, probability: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """bool (Q,) whether a query is an instance, and its likeliest slot and probability, "no object" aside."""
        score, slot = probability[:, :-1].max(dim=-1)
        is_thing = self._thing_slots.to(slot.device)[slot] & (self._category_of.to(slot.device)[slot] >= 0)
        return is_thing & (score > self.instance_threshold), slot, score

    def of_image(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        masks: torch.Tensor,
        sizes: Sizes,
        *,
        queries: torch.Tensor,
    ) -> dict[str, Any]:
        """One image's result.

        Args:
            logits: float (M, C + 1) of the chosen queries.
            boxes: float (M, 4), cxcywh.
            masks: float (M, h, w) at stride 4 of the padded image.
            sizes: of the image.
            queries: int64 (M,), their numbers.
        """
        kept, slots, scores = keep_queries(logits, self.keep_threshold)
        ids, found = merge_query_masks(
            masks[kept],
            slots,
            scores,
            thing_labels=self._thing_slots.nonzero()[:, 0].tolist(),
            image_size=sizes.image,
            padded_size=sizes.padded,
            output_size=sizes.output,
            **self.merge_arguments,
        )
        panoptic, semantic, segments = self._encoded(ids, found, queries[kept].tolist())
        result: dict[str, Any] = {
            "sem_seg": semantic,
            "panoptic_seg": (panoptic, None),
            "segments_info": segments,
        }
        if self.predict_instances:
            result["instances"] = self._instances(logits, boxes, masks, sizes)
        return result

    def _encoded(
        self, ids: torch.Tensor, found: Sequence[dict[str, Any]], queries: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, Any]]]:
        """Ids 1, 2, ... to panoptic ids and categories, int64 (H, W) each, and segments.

        Slots of the head without a class become void.
        """
        panoptic_of, category_of = [VOID], [VOID]
        counts: dict[int, int] = {}
        segments = []
        for segment in found:
            category = int(self._category_of[segment["category_id"]])
            category_of.append(category)
            if category < 0:
                panoptic_of.append(VOID)
                continue
            # Things are numbered from 1; stuff has 0, and only the official merge finds it more than once.
            number = counts[category] = counts.get(category, 0 if segment["isthing"] else -1) + 1
            panoptic_of.append(category * self.label_divisor + number)
            segments.append(
                {
                    "id": panoptic_of[-1],
                    "category_id": category,
                    "isthing": segment["isthing"],
                    "area": segment["area"],
                    "score": segment["score"] if segment["isthing"] else None,
                    "query": queries[segment["query"]],
                }
            )
        tables = (torch.tensor(table, dtype=torch.int64, device=ids.device) for table in (panoptic_of, category_of))
        index = ids.long()
        panoptic, semantic = (table[index] for table in tables)
        return panoptic, semantic, sorted(segments, key=lambda one: one["id"])

    def _instances(self, logits: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor, sizes: Sizes) -> Instances:
        """Things with their own masks, which may overlap."""
        result, chosen = self._detections(logits, boxes, sizes.output)
        found = torch.zeros((len(chosen), *sizes.output), dtype=torch.bool, device=masks.device)
        for number, mask in enumerate(masks[chosen]):  # one after the other: each is as large as the image
            enlarged = F.interpolate(mask[None, None].float(), size=sizes.padded, mode="bilinear", align_corners=False)
            inside = (enlarged[..., : sizes.image[0], : sizes.image[1]] > 0).float()  # a sigmoid above 0.5
            found[number] = F.interpolate(inside, size=sizes.output, mode="nearest")[0, 0] > 0
        result.pred_masks = found
        return result

    def boxes_only(self, logits: torch.Tensor, boxes: torch.Tensor, size: Size) -> dict[str, Any]:
        """The result of one image's queries (Q,) where there is no mask head."""
        return {"instances": self._detections(logits, boxes, size)[0]}

    def _detections(self, logits: torch.Tensor, boxes: torch.Tensor, size: Size) -> tuple[Instances, torch.Tensor]:
        chosen, slot, score = self._instances_among(logits.float().softmax(dim=-1))
        scale = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32, device=boxes.device)
        result = Instances(size)
        result.pred_classes = self._category_of.to(slot.device)[slot[chosen]]
        result.pred_boxes = Boxes(corners(boxes[chosen].float()) * scale)
        result.pred_boxes.clip(size)
        result.scores = score[chosen]
        return result, chosen.nonzero()[:, 0]


def _slot_tables(
    slots: Mapping[int, int], thing_ids: frozenset[int], num_slots: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 (C,): the category of a slot, -1 where it has none; bool (C,): whether a slot is a thing.

    A slot without a category is a thing where it lies below the last thing, as in the official table of COCO.
    """
    category = torch.full((num_slots,), VOID, dtype=torch.int64)
    last_thing = max((slots[one] for one in thing_ids), default=-1)
    is_thing = torch.arange(num_slots) <= last_thing
    for contiguous, slot in slots.items():
        category[slot] = contiguous
        is_thing[slot] = contiguous in thing_ids
    return category, is_thing
