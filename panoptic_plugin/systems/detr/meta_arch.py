"""The meta-architecture of DETR with a panoptic head, registered as ``PanopticDETR``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.layers.query_transformer import QueryTransformer
from panoptic_plugin.postprocessing.query_masks import keep_queries, merge_query_masks
from panoptic_plugin.systems.base import Batch, PanopticSystem, build_named_backbone, output_size
from panoptic_plugin.systems.detr.criterion import LossWeights, SetCriterion
from panoptic_plugin.systems.detr.freezing import freeze, frozen_patterns
from panoptic_plugin.systems.detr.matching import corners
from panoptic_plugin.systems.detr.network import DETRNetwork, QueryOutputs
from panoptic_plugin.systems.detr.weights import adapt_weights
from panoptic_plugin.systems.metadata import panoptic_classes

# Iterations between two looks at numbers that are no losses: reading one makes the host wait for the device.
SCALAR_PERIOD = 20
VOID = -1


@META_ARCH_REGISTRY.register()
class PanopticDETR(PanopticSystem):
    """Object queries, each with a class, a box and a mask, merged to a panoptic segmentation."""

    @configurable
    def __init__(
        self,
        *,
        network: DETRNetwork,
        criterion: SetCriterion,
        slots: Mapping[int, int],
        class_names: Sequence[str],
        thing_ids: Sequence[int],
        label_divisor: int,
        frozen: Sequence[str],
        is_second_stage: bool,
        frozen_in_eval_mode: bool,
        keep_threshold: float,
        merge_arguments: Mapping[str, Any],
        instance_threshold: float,
        predict_instances: bool,
        head_init: str = "random",
        **system_arguments: Any,
    ) -> None:
        """
        Args:
            network: backbone, transformer and heads.
            criterion: losses and matching.
            slots: contiguous category -> slot of the class head.
            class_names: by contiguous category.
            thing_ids: contiguous ids of the things.
            label_divisor: ``panoptic id = category * label_divisor + instance``.
            frozen: regular expressions of the names that do not train.
            is_second_stage: the detector is frozen and only the mask head trains.
            frozen_in_eval_mode: whether the frozen detector runs without dropout while training.
            keep_threshold: a query is kept where its best class is more likely.
            merge_arguments: ``min_area``, ``stuff_merge`` and ``padded_masks`` of
                :func:`~panoptic_plugin.postprocessing.query_masks.merge_query_masks`.
            instance_threshold: things whose best class is more likely are instances.
            predict_instances: whether results hold ``instances``.
            head_init: "random" or "by_name", for checkpoints with another class head.
            system_arguments: those of :class:`PanopticSystem`.
        """
        super().__init__(backbone=network.backbone, **system_arguments)
        for name, child in network.named_children():
            self.add_module(name, child)
        # A plain attribute: its parts are children of this module already, under the names of checkpoints.
        object.__setattr__(self, "network", network)
        self.criterion = criterion
        self.slots = dict(slots)
        self.class_names = list(class_names)
        self.thing_ids = frozenset(thing_ids)
        self.label_divisor = label_divisor
        self.frozen_names = freeze(self, tuple(frozen))
        self.is_second_stage = is_second_stage
        self.frozen_in_eval_mode = frozen_in_eval_mode
        self.keep_threshold = keep_threshold
        self.merge_arguments = dict(merge_arguments)
        self.instance_threshold = instance_threshold
        self.predict_instances = predict_instances
        self.head_init = head_init
        self._category_of, self._thing_slots = _slot_tables(self.slots, self.thing_ids, criterion.num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr, test = cfg.MODEL.DETR, cfg.MODEL.DETR.TEST
        classes = panoptic_classes(cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        slots = _slots(metadata, detr.LABEL_SPACE)
        _check_config(cfg, slots)
        return {
            "network": _build_network(cfg),
            "criterion": _build_criterion(detr),
            "slots": slots,
            "class_names": metadata.get("stuff_classes", []),
            "thing_ids": classes.thing_ids,
            "label_divisor": classes.label_divisor,
            "frozen": frozen_patterns(detr.FREEZE, detr.FREEZE_K, detector=bool(detr.FROZEN_WEIGHTS)),
            "is_second_stage": bool(detr.FROZEN_WEIGHTS),
            "frozen_in_eval_mode": detr.FROZEN_EVAL_MODE,
            "keep_threshold": test.OBJECT_MASK_THRESHOLD,
            "merge_arguments": {
                "min_area": test.MIN_AREA,
                "stuff_merge": test.STUFF_MERGE,
                "padded_masks": test.PADDED_MASKS,
            },
            "instance_threshold": test.INSTANCE_THRESHOLD,
            "predict_instances": test.INSTANCE_ON,
            "head_init": detr.HEAD_INIT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": 0,
            "timer_enabled": cfg.MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED,
        }

    def train(self, mode: bool = True) -> PanopticDETR:
        """As any module; a frozen detector that is to be without dropout stays in evaluation mode."""
        super().train(mode)
        if mode and self.is_second_stage and self.frozen_in_eval_mode:
            self.backbone.eval()
            self.detr.eval()
        return self

    def adapt_weights(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of any DETR layout under the names of this model; the checkpointer asks for it."""
        return adapt_weights(
            weights,
            num_slots=self.criterion.num_classes,
            names_of_slots={slot: self.class_names[category] for category, slot in self.slots.items()},
            head_init=self.head_init,
        )

    @property
    def must_be_loaded(self) -> tuple[str, ...]:
        """Starts of the names that a second stage must find in its box model."""
        return ("backbone.", "detr.") if self.is_second_stage else ()

    def forward(self, batched_inputs: Batch) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image: ``image`` uint8 or float (3, H, W) in INPUT.FORMAT order; in training
                ``labels`` int64 (T,), ``boxes`` float (T, 4), ``segment_index`` integers (H, W), see
                :mod:`panoptic_plugin.systems.detr.criterion`; in evaluation ``height`` and ``width`` of the result.

        Returns:
            In training ``loss_ce``, ``loss_bbox``, ``loss_giou``, those of the other decoder layers with ``_0``, ...,
            and with a mask head ``loss_mask`` and ``loss_dice``; in the second stage only the latter two. In
            evaluation one dict an image: ``panoptic_seg`` (ids, None) as ``category * label_divisor + instance``,
            void -1; ``segments_info``; ``sem_seg`` int64 (H, W), the category of each pixel, void -1; ``instances``
            where wanted. Without a mask head there are ``instances`` with boxes alone.
        """
        if self.training:
            return self.losses(batched_inputs)
        with self.timer.measure("network", self.device, len(batched_inputs)):
            images = self.images(batched_inputs)
            outputs = self.network.detect(images.tensor, padding_of(images))
            if not self.network.has_masks:
                return [self._boxes_only(*one) for one in self._per_image(outputs, images, batched_inputs)]
            chosen = [self._chosen(logits) for logits in outputs.logits[-1]]
            masks = self.network.masks(outputs, chosen).split([len(some) for some in chosen])
        with self.timer.measure("postprocessing", self.device, len(batched_inputs)):
            per_image = self._per_image(outputs, images, batched_inputs)
            padded = tuple(images.tensor.shape[-2:])
            return [
                self.postprocess(logits[some], boxes[some], mask, size, padded, sample, queries=some)
                for (logits, boxes, size, sample), some, mask in zip(per_image, chosen, masks, strict=True)
            ]

    def losses(self, batched_inputs: Batch) -> dict[str, torch.Tensor]:
        """The losses of a batch; see :meth:`forward` for its keys."""
        images, targets = self.images(batched_inputs), self._targets(batched_inputs)
        padding = padding_of(images)
        if self.is_second_stage:
            with torch.no_grad():
                outputs = self.network.detect(images.tensor, padding)
                losses, scalars, pairs = self.criterion.boxes(_last_layer(outputs), targets)
            # Nothing of these can change; they are there to be looked at.
            scalars, losses = {**scalars, **{f"frozen/{name}": value for name, value in losses.items()}}, {}
        else:
            outputs = self.network.detect(images.tensor, padding)
            losses, scalars, pairs = self.criterion.boxes(outputs, targets)
        if self.network.has_masks:
            size = (int(images.tensor.shape[-2]), int(images.tensor.shape[-1]))
            num_queries = outputs.queries.shape[1]
            losses |= self.criterion.masks(
                lambda chosen: self.network.masks(outputs, chosen), targets, pairs, num_queries, size
            )
        _log(scalars)
        return losses

    def _targets(self, batched_inputs: Batch) -> list[dict[str, torch.Tensor]]:
        names = ("labels", "boxes", "segment_index")
        if any(name not in batched_inputs[0] for name in names):
            raise ConfigError(
                f"the training batch has {sorted(batched_inputs[0])}, but PanopticDETR needs {', '.join(names)}; set "
                "INPUT.TARGET_GENERATOR detr"
            )
        return [{name: sample[name].to(self.device, non_blocking=True) for name in names} for sample in batched_inputs]

    def _per_image(self, outputs: QueryOutputs, images: ImageList, batch: Batch):
        return zip(outputs.logits[-1], outputs.boxes[-1], images.image_sizes, batch, strict=True)

    def _chosen(self, logits: torch.Tensor) -> torch.Tensor:
        """Queries of one image whose masks are needed, in ascending order: int64 (M,)."""
        probability = logits.float().softmax(dim=-1)
        label = probability.argmax(dim=-1)
        wanted = (label != logits.shape[-1] - 1) & (probability.amax(dim=-1) > self.keep_threshold)
        if self.predict_instances:
            wanted |= self._instances_among(probability)[0]
        return wanted.nonzero()[:, 0]

    def _instances_among(self, probability: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """bool (Q,) whether a query is an instance, and its likeliest slot and probability, "no object" aside."""
        score, slot = probability[:, :-1].max(dim=-1)
        is_thing = self._thing_slots.to(slot.device)[slot] & (self._category_of.to(slot.device)[slot] >= 0)
        return is_thing & (score > self.instance_threshold), slot, score

    def postprocess(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        masks: torch.Tensor,
        image_size: tuple[int, int],
        padded_size: tuple[int, int],
        sample: Mapping[str, Any],
        *,
        queries: torch.Tensor,
    ) -> dict[str, Any]:
        """One image's chosen queries (M,) to its result; ``masks`` float (M, h, w) at stride 4 of the padded image."""
        size = output_size(sample, image_size)
        kept, slots, scores = keep_queries(logits, self.keep_threshold)
        ids, found = merge_query_masks(
            masks[kept],
            slots,
            scores,
            thing_labels=self._thing_slots.nonzero()[:, 0].tolist(),
            image_size=image_size,
            padded_size=padded_size,
            output_size=size,
            **self.merge_arguments,
        )
        panoptic, semantic, segments = self._encoded(ids, found, queries[kept].tolist())
        result: dict[str, Any] = {
            "sem_seg": semantic,
            "panoptic_seg": (panoptic, None),
            "segments_info": segments,
        }
        if self.predict_instances:
            result["instances"] = self._instances(logits, boxes, masks, image_size, padded_size, size)
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

    def _instances(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        masks: torch.Tensor,
        image_size: tuple[int, int],
        padded_size: tuple[int, int],
        size: tuple[int, int],
    ) -> Instances:
        """Things with their own masks, which may overlap."""
        result, chosen = self._detections(logits, boxes, size)
        found = torch.zeros((len(chosen), *size), dtype=torch.bool, device=masks.device)
        for number, mask in enumerate(masks[chosen]):  # one after the other: each is as large as the image
            enlarged = F.interpolate(mask[None, None].float(), size=padded_size, mode="bilinear", align_corners=False)
            inside = (enlarged[..., : image_size[0], : image_size[1]] > 0).float()  # a sigmoid above 0.5
            found[number] = F.interpolate(inside, size=size, mode="nearest")[0, 0] > 0
        result.pred_masks = found
        return result

    def _boxes_only(
        self, logits: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], sample: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"instances": self._detections(logits, boxes, output_size(sample, image_size))[0]}

    def _detections(
        self, logits: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]
    ) -> tuple[Instances, torch.Tensor]:
        chosen, slot, score = self._instances_among(logits.float().softmax(dim=-1))
        scale = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32, device=boxes.device)
        result = Instances(size)
        result.pred_classes = self._category_of.to(slot.device)[slot[chosen]]
        result.pred_boxes = Boxes(corners(boxes[chosen].float()) * scale)
        result.pred_boxes.clip(size)
        result.scores = score[chosen]
        return result, chosen.nonzero()[:, 0]


def padding_of(images: ImageList) -> torch.Tensor:
    """bool (N, H, W): True where a batch of images is padded."""
    num_images, _, height, width = images.tensor.shape
    padding = torch.ones((num_images, height, width), dtype=torch.bool, device=images.tensor.device)
    for one, (rows, columns) in zip(padding, images.image_sizes, strict=True):
        one[:rows, :columns] = False
    return padding


def _last_layer(outputs: QueryOutputs) -> QueryOutputs:
    return QueryOutputs(**{**vars(outputs), "logits": outputs.logits[-1:], "boxes": outputs.boxes[-1:]})


def _log(scalars: Mapping[str, Any]) -> None:
    """Numbers that are no losses must not be among these: the trainer would add them to the total."""
    try:
        storage = get_event_storage()
    except AssertionError:  # the model is called outside of a training
        return
    if storage.iter % SCALAR_PERIOD == SCALAR_PERIOD - 1:
        storage.put_scalars(**{name: float(value) for name, value in scalars.items()})


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


def _slots(metadata: Any, label_space: str) -> dict[int, int]:
    maps = (metadata.thing_dataset_id_to_contiguous_id, metadata.get("stuff_dataset_id_to_contiguous_id", {}))
    pairs = {contiguous: dataset_id for one in maps for dataset_id, contiguous in one.items()}
    return pairs if label_space == "dataset" else {contiguous: contiguous for contiguous in pairs}


def _check_config(cfg: CfgNode, slots: Mapping[int, int]) -> None:
    """Keys that contradict each other or the dataset; raises ConfigError."""
    detr = cfg.MODEL.DETR
    outside = sorted(slot for slot in slots.values() if not 0 <= slot < detr.NUM_CLASSES)
    if outside:
        raise ConfigError(
            f"MODEL.DETR.NUM_CLASSES is {detr.NUM_CLASSES}, but the dataset {cfg.DATASETS.TRAIN[0]!r} has the category "
            f"ids {outside[:8]}; set it to at least {max(outside) + 1}, or MODEL.DETR.LABEL_SPACE to contiguous"
        )
    if detr.HIDDEN_DIM % detr.NHEADS or detr.HIDDEN_DIM % 16:
        raise ConfigError(
            f"MODEL.DETR.HIDDEN_DIM is {detr.HIDDEN_DIM}, expected a multiple of 16 and of NHEADS {detr.NHEADS}"
        )
    if detr.FROZEN_WEIGHTS and not cfg.MODEL.MASK_ON:
        raise ConfigError("MODEL.DETR.FROZEN_WEIGHTS freezes all but the mask head; set MODEL.MASK_ON True")
    for key, known in (
        ("HEAD_INIT", ("random", "by_name")),
        ("MASK_QUERIES", ("matched", "all")),
        ("LABEL_SPACE", ("dataset", "contiguous")),
    ):
        if detr[key] not in known:
            raise ConfigError(f"MODEL.DETR.{key} is {detr[key]!r}, expected one of {', '.join(known)}")


def _build_network(cfg: CfgNode) -> DETRNetwork:
    detr = cfg.MODEL.DETR
    transformer = QueryTransformer(
        dim=detr.HIDDEN_DIM,
        num_heads=detr.NHEADS,
        num_encoder_layers=detr.ENC_LAYERS,
        num_decoder_layers=detr.DEC_LAYERS,
        feedforward_dim=detr.DIM_FEEDFORWARD,
        dropout=detr.DROPOUT,
        norm_first=detr.PRE_NORM,
    )
    return DETRNetwork(
        backbone=build_named_backbone(cfg),
        num_classes=detr.NUM_CLASSES,
        num_queries=detr.NUM_OBJECT_QUERIES,
        transformer=transformer,
        dim=detr.HIDDEN_DIM,
        num_heads=detr.NHEADS,
        masks=cfg.MODEL.MASK_ON,
    )


def _build_criterion(detr: CfgNode) -> SetCriterion:
    weights = LossWeights(
        cls=detr.CLASS_WEIGHT,
        l1=detr.L1_WEIGHT,
        giou=detr.GIOU_WEIGHT,
        mask=detr.MASK_WEIGHT,
        dice=detr.DICE_WEIGHT,
        cost_class=detr.COST_CLASS,
        cost_bbox=detr.COST_BBOX,
        cost_giou=detr.COST_GIOU,
        no_object=detr.NO_OBJECT_WEIGHT,
    )
    return SetCriterion(
        num_classes=detr.NUM_CLASSES,
        weights=weights,
        deep_supervision=detr.DEEP_SUPERVISION,
        masks=detr.MASK_QUERIES,
    )
