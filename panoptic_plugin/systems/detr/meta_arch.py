"""The meta-architecture of DETR with a panoptic head, registered as ``PanopticDETR``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch.nn.modules.batchnorm import _BatchNorm

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.label_space import head_slots
from panoptic_plugin.systems.base import Batch, PanopticSystem, output_size
from panoptic_plugin.systems.detr.attention import recorded_attention
from panoptic_plugin.systems.detr.build import build_criterion, build_network, check_config
from panoptic_plugin.systems.detr.criterion import SetCriterion
from panoptic_plugin.systems.detr.freezing import freeze, frozen_patterns
from panoptic_plugin.systems.detr.network import DETRNetwork, QueryOutputs
from panoptic_plugin.systems.detr.results import QueryResults, Sizes
from panoptic_plugin.systems.detr.weights import adapt_weights
from panoptic_plugin.systems.metadata import panoptic_classes

# Iterations between two looks at numbers that are no losses: reading one makes the host wait for the device.
SCALAR_PERIOD = 20


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
        results: QueryResults,
        frozen: Sequence[str],
        is_second_stage: bool,
        frozen_in_eval_mode: bool,
        head_init: str = "random",
        **system_arguments: Any,
    ) -> None:
        """
        Args:
            network: backbone, transformer and heads.
            criterion: losses and matching.
            slots: contiguous category -> slot of the class head.
            class_names: by contiguous category.
            results: makes results of queries.
            frozen: regular expressions of the names that do not train.
            is_second_stage: the detector is frozen and only the mask head trains.
            frozen_in_eval_mode: whether the frozen detector runs without dropout while training.
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
        self.results = results
        self.frozen_names = freeze(self, tuple(frozen))
        self.is_second_stage = is_second_stage
        self.frozen_in_eval_mode = frozen_in_eval_mode
        self.head_init = head_init
        # Whether results have "attention", see panoptic_plugin.systems.detr.attention; off, it costs nothing.
        self.keep_attention = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr, test = cfg.MODEL.DETR, cfg.MODEL.DETR.TEST
        classes = panoptic_classes(cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        slots = head_slots(metadata, detr.LABEL_SPACE)
        check_config(cfg, slots)
        return {
            "network": build_network(cfg),
            "criterion": build_criterion(detr),
            "slots": slots,
            "class_names": metadata.get("stuff_classes", []),
            "results": QueryResults(
                slots=slots,
                thing_ids=frozenset(classes.thing_ids),
                num_slots=detr.NUM_CLASSES,
                label_divisor=classes.label_divisor,
                keep_threshold=test.OBJECT_MASK_THRESHOLD,
                merge_arguments={
                    "min_area": test.MIN_AREA,
                    "stuff_merge": test.STUFF_MERGE,
                    "padded_masks": test.PADDED_MASKS,
                },
                instance_threshold=test.INSTANCE_THRESHOLD,
                predict_instances=test.INSTANCE_ON,
            ),
            "frozen": frozen_patterns(detr.FREEZE, detr.FREEZE_K, detector=bool(detr.FROZEN_WEIGHTS)),
            "is_second_stage": bool(detr.FROZEN_WEIGHTS),
            "frozen_in_eval_mode": detr.FROZEN_EVAL_MODE,
            "head_init": detr.HEAD_INIT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": 0,
            "timer_enabled": cfg.MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED,
        }

    def train(self, mode: bool = True) -> PanopticDETR:
        """As any module, but batch norms that do not train keep their statistics.

        A frozen detector that is to be without dropout stays in evaluation mode.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and not any(one.requires_grad for one in module.parameters()):
                module.eval()
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
            with recorded_attention(self.detr.transformer, self.keep_attention) as record:
                outputs = self.network.detect(images.tensor, padding_of(images))
            logits, boxes = outputs.logits[-1], outputs.boxes[-1]
            per_image = zip(images.image_sizes, batched_inputs, strict=True)
            sizes = [output_size(sample, image_size) for image_size, sample in per_image]
            if not self.network.has_masks:
                return [self.results.boxes_only(*one) for one in zip(logits, boxes, sizes, strict=True)]
            chosen = [self.results.chosen(some) for some in logits]
            masks = self.network.masks(outputs, chosen).split([len(some) for some in chosen])
        with self.timer.measure("postprocessing", self.device, len(batched_inputs)):
            padded = (int(images.tensor.shape[-2]), int(images.tensor.shape[-1]))
            everything = zip(logits, boxes, masks, images.image_sizes, sizes, chosen, strict=True)
            results = [
                self.results.of_image(classes[some], box[some], mask, Sizes(image_size, padded, size), queries=some)
                for classes, box, mask, image_size, size, some in everything
            ]
            if self.keep_attention:
                for number, result in enumerate(results):
                    result["attention"] = record.of_image(number, outputs.padding[number], chosen[number])
            return results

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
