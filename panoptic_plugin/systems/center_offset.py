"""What systems share that find instances by a center heatmap and offsets, as Panoptic-DeepLab does.

A system says how images become logits, heatmaps and offsets, and which losses it trains with; the way from there to
results, the keys of that way and its test-time augmentation (``center_offset_tta.py``) are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.losses.instance_weights import InstanceWeightOptions, instance_factors, keep_sum
from panoptic_plugin.postprocessing.merge import thing_table
from panoptic_plugin.postprocessing.panoptic_deeplab import panoptic_from_semantic
from panoptic_plugin.postprocessing.resize import offsets_to_output_size, to_output_size
from panoptic_plugin.postprocessing.semantic import SemanticLogits, classify, logits_of_result
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions
from panoptic_plugin.systems.base import Batch, PanopticSystem, output_size, panoptic_output, size_ratio
from panoptic_plugin.systems.grouping import grouping_arguments
from panoptic_plugin.systems.instance_weights import instance_weight_options, predicted_groups
from panoptic_plugin.systems.metadata import panoptic_classes

INSTANCE_TARGETS = ("center", "center_weights", "offset", "offset_weights")


class CenterOffsetSystem(PanopticSystem):
    """Semantic logits, a center heatmap and offsets, grouped to a panoptic segmentation."""

    def __init__(
        self,
        *,
        thing_ids: Sequence[int],
        label_divisor: int,
        stuff_area: int,
        center_threshold: float,
        nms_kernel: int,
        top_k: int,
        predict_instances: bool,
        return_logits: bool = True,
        grouping: GroupingOptions | None = None,
        score: str = "both",
        instance_weights: InstanceWeightOptions | None = None,
        **system_arguments: Any,
    ) -> None:
        """
        Args:
            thing_ids: contiguous ids of the thing classes.
            label_divisor: ``panoptic id = category * label_divisor + instance``.
            stuff_area: stuff of fewer pixels becomes void.
            center_threshold: lowest heatmap value of a center.
            nms_kernel: window in which a center is the highest value.
            top_k: at most so many instances an image.
            predict_instances: whether results hold ``instances`` too.
            return_logits: whether ``sem_seg`` of results is logits (C, H, W) or the categories (H, W). The latter
                is several times as fast to make on a CPU; it can be changed at any time.
            grouping: how thing pixels find their instance, with lengths in pixels of the network input; by default the
                center nearest to where their offset points.
            score: of instances: "both", "semantic" or "center", see
                :func:`~panoptic_plugin.postprocessing.panoptic_deeplab.panoptic_from_semantic`.
            instance_weights: how the losses weigh pixels; by default as the targets say.
            system_arguments: those of :class:`PanopticSystem`.
        """
        super().__init__(**system_arguments)
        self.predict_instances = predict_instances
        self.return_logits = return_logits
        self.thing_ids = tuple(thing_ids)
        self.postprocessing_arguments: dict[str, Any] = {
            "thing_ids": self.thing_ids,
            "label_divisor": label_divisor,
            "stuff_area": stuff_area,
            "threshold": center_threshold,
            "nms_kernel": nms_kernel,
            "top_k": top_k,
            "score": score,
        }
        self.grouping = grouping or GroupingOptions()
        self.instance_weights = instance_weights or InstanceWeightOptions()

    def forward(self, batched_inputs: Batch) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image: ``image`` uint8 or float (3, H, W) in INPUT.FORMAT order; in training
                ``sem_seg`` int64 (H, W), ``sem_seg_weights`` (H, W, optional), ``center`` (H, W),
                ``center_weights`` (1, H, W), ``offset`` (2, H, W), ``offset_weights`` (1, H, W); in evaluation
                ``height`` and ``width`` of the result (default: those of the image).

        Returns:
            In training the losses by name. In evaluation one dict an image, see
            :func:`~panoptic_plugin.systems.base.panoptic_output`.
        """
        if self.training:
            return self.losses(batched_inputs)
        with self.timer.measure("network", self.device, len(batched_inputs)):
            images = self.images(batched_inputs)
            logits, heatmaps, offsets = self.predict(images.tensor, enlarge_logits=self.return_logits)
        with self.timer.measure("postprocessing", self.device, len(batched_inputs)):
            per_image = zip(logits, heatmaps, offsets, images.image_sizes, batched_inputs, strict=True)
            return [self.postprocess(*outputs) for outputs in per_image]

    def losses(self, batched_inputs: Batch) -> dict[str, torch.Tensor]:
        """The losses of a batch; see :meth:`forward` for its keys."""
        raise NotImplementedError

    def predict(
        self, images: torch.Tensor, *, enlarge_logits: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised images (N, 3, H, W) to logits (N, C, H, W), heatmaps (N, 1, H, W) and offsets (N, 2, H, W).

        The softmax of the logits is what the system says of the classes. Logits that are not enlarged are those of the
        network's stride, (N, C, h, w).
        """
        raise NotImplementedError

    def instance_targets(self, batched_inputs: Batch) -> tuple[torch.Tensor, ...]:
        """Heatmap (N, 1, H, W), its weights (N, 1, H, W), offsets (N, 2, H, W), their weights (N, 1, H, W)."""
        center, center_weights, offset, offset_weights = (self.targets(batched_inputs, key) for key in INSTANCE_TARGETS)
        return center.unsqueeze(1), center_weights, offset, offset_weights

    def semantic_weights(self, batched_inputs: Batch) -> torch.Tensor | None:
        """Weights (N, H, W) of the pixels in the semantic loss by the targets alone, None where there are none."""
        if self.instance_weights.mode == "none" or "sem_seg_weights" not in batched_inputs[0]:
            return None
        return self.targets(batched_inputs, "sem_seg_weights")

    def predicted_weights(
        self,
        batched_inputs: Batch,
        *,
        logits: torch.Tensor,
        targets: torch.Tensor,
        ignore_value: int,
        heatmaps: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """Weights of the losses where ``instance_weights`` looks at the network.

        Args:
            batched_inputs: see :meth:`forward`, with ``instance_ids`` int64 (H, W).
            logits: float (N, C, h, w) whose softmax is the probabilities.
            targets: int64 (N, H, W), semantic.
            ignore_value: the label without a semantic loss.
            heatmaps, offsets: float (N, 1, h, w) and (N, 2, h, w) in pixels of that size; the true objects stand in
                for the predicted instances where there are none.

        Returns:
            ``semantic``: weights (N, H, W), or None. ``center``, ``offset``: what their weights are multiplied by,
            (N, 1, H, W), or None.
        """
        options, groups = self.instance_weights, None
        base = self.semantic_weights(batched_inputs)
        if options.needs_groups and heatmaps is not None and offsets is not None:
            keys = ("thing_ids", "threshold", "nms_kernel", "top_k")
            how = {key: self.postprocessing_arguments[key] for key in keys}
            size = (int(targets.shape[-2]), int(targets.shape[-1]))
            groups = predicted_groups(logits, heatmaps, offsets, size=size, **how)
        factors = instance_factors(
            options,
            logits=logits,
            targets=targets,
            instance_ids=self.targets(batched_inputs, "instance_ids"),
            groups=groups,
            ignore_value=ignore_value,
        )
        weights: dict[str, torch.Tensor | None] = {"semantic": base}
        if "semantic" in options.apply_to:
            base = torch.ones_like(factors) if base is None else base
            weights["semantic"] = keep_sum(base * (targets != ignore_value), factors)
        return weights | {name: factors[:, None] if name in options.apply_to else None for name in ("center", "offset")}

    def postprocess(
        self,
        logits: torch.Tensor,
        heatmap: torch.Tensor,
        offsets: torch.Tensor,
        image_size: tuple[int, int],
        sample: Mapping[str, Any],
    ) -> dict[str, Any]:
        """One image's outputs of the padded network input, as :meth:`predict` gives them, to its result."""
        size = output_size(sample, image_size)
        stride = heatmap.shape[-1] // logits.shape[-1]
        return self.result_of_maps(
            logits_of_result(logits.float(), stride, image_size, size),
            to_output_size(heatmap.float(), image_size, size),
            offsets_to_output_size(offsets.float(), image_size, size),
            scale=size_ratio(size, image_size),
        )

    def result_of_maps(
        self, source: SemanticLogits, heatmap: torch.Tensor, offsets: torch.Tensor, scale: float = 1.0
    ) -> dict[str, Any]:
        """Outputs at the size of the result, heatmap (1, H, W) and offsets (2, H, W) in its pixels, to the result.

        ``scale`` is how many times as wide and high the result is as the network input.
        """
        semantic = classify(source, thing_table(self.thing_ids, source.num_classes, heatmap.device))
        arguments = {**self.postprocessing_arguments, "grouping": self.grouping.scaled(scale)}
        panoptic, segments = panoptic_from_semantic(source, semantic, heatmap, offsets, **arguments)
        shown = source.whole() if self.return_logits else semantic.labels
        return panoptic_output(
            shown, panoptic, segments, predict_instances=self.predict_instances, thing_pixels=semantic.pixels
        )


def center_offset_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`CenterOffsetSystem` that the config gives, all but the backbone.

    Raises:
        ConfigError: keys that contradict each other or the dataset.
    """
    system = cfg.MODEL.PANOPTIC_DEEPLAB
    classes = panoptic_classes(cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    _check_config(cfg, classes.label_divisor)
    return {
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": system.SIZE_DIVISIBILITY,
        "timer_enabled": system.BENCHMARK_NETWORK_SPEED,
        "thing_ids": classes.thing_ids,
        "label_divisor": classes.label_divisor,
        "stuff_area": system.STUFF_AREA,
        "center_threshold": system.CENTER_THRESHOLD,
        "nms_kernel": system.NMS_KERNEL,
        "top_k": system.TOP_K_INSTANCE,
        "predict_instances": system.PREDICT_INSTANCES,
        "return_logits": system.get("RETURN_LOGITS", True),
        **grouping_arguments(cfg),
        "instance_weights": instance_weight_options(cfg),
    }


def _check_config(cfg: CfgNode, label_divisor: int) -> None:
    system, separable = cfg.MODEL.PANOPTIC_DEEPLAB, cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV
    if separable != system.USE_DEPTHWISE_SEPARABLE_CONV:
        raise ConfigError(
            f"MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV is {system.USE_DEPTHWISE_SEPARABLE_CONV} and "
            f"MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV is {separable}; set both to the same value"
        )
    if system.NMS_KERNEL < 1:
        raise ConfigError(f"MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL is {system.NMS_KERNEL}, expected at least 1 pixel")
    if not 1 <= system.TOP_K_INSTANCE < label_divisor:
        raise ConfigError(
            f"MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE is {system.TOP_K_INSTANCE}, expected 1 to {label_divisor - 1}, "
            "what the label_divisor of the dataset can number"
        )
