"""The meta-architecture of EfficientPS with a SOLOv2 head, registered as ``PluginEfficientPS``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.postprocessing.fusion import OUTSIDE
from panoptic_plugin.postprocessing.matrix_nms import KERNELS
from panoptic_plugin.systems.base import Batch, PanopticSystem, build_named_backbone, build_named_sem_seg_head
from panoptic_plugin.systems.base import output_size as wanted_size
from panoptic_plugin.systems.efficientps.results import MaskResults
from panoptic_plugin.systems.efficientps.solov2_head import SOLOv2Head
from panoptic_plugin.systems.efficientps.solov2_losses import SOLOv2Losses
from panoptic_plugin.systems.efficientps.solov2_masks import SOLOv2Selection
from panoptic_plugin.systems.efficientps.solov2_targets import SOLOv2Targets, solov2_targets
from panoptic_plugin.systems.metadata import panoptic_classes


@META_ARCH_REGISTRY.register()
class PluginEfficientPS(PanopticSystem):
    """One backbone with a feature pyramid, a semantic head and a SOLOv2 head, whose results are fused."""

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: nn.Module,
        instance_head: SOLOv2Head,
        instance_losses: SOLOv2Losses,
        target_arguments: Mapping[str, Any],
        selection: SOLOv2Selection,
        results: MaskResults,
        return_logits: bool = True,
        **system_arguments: Any,
    ) -> None:
        """
        Args:
            sem_seg_head: ``features -> logits (N, C, H / 4, W / 4)``, with ``losses(logits, targets)``.
            instance_head: the layers of SOLOv2.
            instance_losses: its losses.
            target_arguments: of :func:`~panoptic_plugin.systems.efficientps.solov2_targets.solov2_targets`.
            selection: from cells to masks.
            results: from logits and masks to results.
            return_logits: whether ``sem_seg`` of results is logits (C, H, W) or the categories (H, W).
            system_arguments: those of :class:`PanopticSystem`.
        """
        super().__init__(**system_arguments)
        self.sem_seg_head = sem_seg_head
        self.instance_head = instance_head
        self.instance_losses = instance_losses
        self.target_arguments = dict(target_arguments)
        self.selection = selection
        self.results = results
        self.return_logits = return_logits

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        solo, fusion = cfg.MODEL.SOLOV2, cfg.MODEL.PANOPTIC_FUSION
        classes = panoptic_classes(cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        _check_levels(solo, len(classes.thing_ids), cfg.DATASETS.TRAIN[0])
        _check_names(cfg)
        backbone = build_named_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_named_sem_seg_head(cfg, backbone.output_shape()),
            "instance_head": SOLOv2Head(cfg, backbone.output_shape()),
            "instance_losses": SOLOv2Losses(
                focal_alpha=solo.FOCAL_ALPHA,
                focal_gamma=solo.FOCAL_GAMMA,
                focal_weight=solo.FOCAL_WEIGHT,
                dice_weight=solo.DICE_WEIGHT,
            ),
            "target_arguments": {
                "num_classes": solo.NUM_CLASSES,
                "num_grids": solo.NUM_GRIDS,
                "scale_ranges": solo.SCALE_RANGES,
                "sigma": solo.SIGMA,
            },
            "selection": SOLOv2Selection(
                num_grids=solo.NUM_GRIDS,
                strides=solo.STRIDES,
                score_threshold=solo.SCORE_THR,
                mask_threshold=solo.MASK_THR,
                nms_pre=solo.NMS_PRE,
                nms_kernel=solo.NMS_KERNEL,
                nms_sigma=solo.NMS_SIGMA,
                update_threshold=solo.UPDATE_THR,
                max_masks=solo.MAX_PER_IMG,
            ),
            "results": MaskResults(
                thing_ids=classes.thing_ids,
                label_divisor=classes.label_divisor,
                mask_threshold=solo.MASK_THR,
                predict_instances=solo.PREDICT_INSTANCES,
                return_fused_logits=fusion.RETURN_LOGITS,
                fusion_arguments={
                    "score_threshold": fusion.SCORE_THRESH,
                    "overlap_threshold": fusion.OVERLAP_THRESH,
                    "stuff_area": fusion.STUFF_AREA_LIMIT,
                    "mask_logit_scale": fusion.MASK_LOGIT_SCALE,
                    "outside": fusion.OUTSIDE,
                    "box_margin": fusion.BOX_MARGIN,
                    "center_semantic": fusion.CENTER_SEM_LOGITS,
                    "fill_void": fusion.FILL_VOID,
                },
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": 0,
            "timer_enabled": cfg.MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED,
        }

    def forward(self, batched_inputs: Batch) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image: ``image`` uint8 or float (3, H, W) in INPUT.FORMAT order; in training
                ``sem_seg`` int64 (H, W), ``instance_index`` integers (H, W), t + 1 on object t and 0 elsewhere,
                ``instance_classes`` int64 (T,); in evaluation ``height`` and ``width`` of the result (default: those
                of the image).

        Returns:
            In training ``loss_sem_seg``, ``loss_category`` and ``loss_mask``. In evaluation one dict an image, see
            :meth:`~panoptic_plugin.systems.efficientps.results.MaskResults.of_image`.
        """
        if self.training:
            return self.losses(batched_inputs)
        with self.timer.measure("network", self.device, len(batched_inputs)):
            images = self.images(batched_inputs)
            features = self.backbone(images.tensor)
            logits, outputs = self.sem_seg_head(features), self.instance_head(features)
        with self.timer.measure("postprocessing", self.device, len(batched_inputs)):
            padded = (int(images.tensor.shape[-2]), int(images.tensor.shape[-1]))
            results = []
            for number, (image_size, sample) in enumerate(zip(images.image_sizes, batched_inputs, strict=True)):
                cells = (outputs.category_logits[number], outputs.kernels[number], outputs.mask_features[number])
                result = self.results.of_image(
                    logits[number],
                    self.selection(*cells),
                    image_size=image_size,
                    padded_size=padded,
                    size=wanted_size(sample, image_size),
                    return_logits=self.return_logits,
                )
                results.append(result)
            return results

    def losses(self, batched_inputs: Batch) -> dict[str, torch.Tensor]:
        """The losses of a batch; see :meth:`forward` for its keys."""
        images = self.images(batched_inputs)
        semantic = self.targets(batched_inputs, "sem_seg", self.sem_seg_head.ignore_value)
        targets = self._instance_targets(batched_inputs)
        features = self.backbone(images.tensor)
        losses = self.sem_seg_head.losses(self.sem_seg_head(features), semantic)
        return {**losses, **self.instance_losses(self.instance_head(features), targets)}

    def _instance_targets(self, batched_inputs: Batch) -> list[SOLOv2Targets]:
        index = self.targets(batched_inputs, "instance_index")
        classes: Sequence[torch.Tensor] = [one["instance_classes"].to(self.device) for one in batched_inputs]
        return [solov2_targets(*one, **self.target_arguments) for one in zip(index, classes, strict=True)]


def _check_levels(solo: CfgNode, num_things: int, dataset: str) -> None:
    if num_things != solo.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.SOLOV2.NUM_CLASSES is {solo.NUM_CLASSES}, but the dataset {dataset!r} of DATASETS.TRAIN has "
            f"{num_things} thing classes; set it to {num_things}"
        )
    lengths = {key: len(solo[key]) for key in ("IN_FEATURES", "NUM_GRIDS", "STRIDES", "SCALE_RANGES")}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise ConfigError(f"MODEL.SOLOV2 has lists of unlike length ({found}), expected one entry a level in each")


def _check_names(cfg: CfgNode) -> None:
    """Names that only inference reads, before a training is wasted on them."""
    found = {
        "MODEL.SOLOV2.NMS_KERNEL": (cfg.MODEL.SOLOV2.NMS_KERNEL, KERNELS),
        "MODEL.PANOPTIC_FUSION.OUTSIDE": (cfg.MODEL.PANOPTIC_FUSION.OUTSIDE, OUTSIDE),
    }
    for key, (name, known) in found.items():
        if name not in known:
            raise ConfigError(f"{key} is {name!r}, expected one of {', '.join(known)}")
