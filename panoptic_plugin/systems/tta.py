"""Test-time augmentation: several views of an image, averaged outputs, one post-processing.

A view is the image at another size, or mirrored. What a network says of each view is brought to the size of the result
and turned back, then averaged: probabilities of the classes, and whatever else a system groups its instances by. The
result is made of the averages once, so that no instances of different views have to be matched.

A system joins by a subclass of :class:`TestTimeAugmentation` that is registered as ``<its meta-architecture>WithTTA``.
For those with center heatmaps and offsets most of it is in ``center_offset_tta.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data.transforms import ResizeShortestEdge
from torch import nn
from torch.nn import functional as F

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import TTA_REGISTRY
from panoptic_plugin.systems.base import Batch, output_size
from panoptic_plugin.systems.timer import StageTimer

# What the averages of one image are made of, by name: float (C, H, W) at the size of the result.
Maps = dict[str, torch.Tensor]

# A probability of 0 in every view has a logarithm too.
SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Views:
    """Which views of an image the network sees.

    Attributes:
        scales: factors of the size that the image has as it comes from the mapper; 1 leaves it untouched.
        min_sizes: lengths of the shorter edge in pixels; they take the place of ``scales`` where there are any.
        max_size: no view has a longer edge.
        flip: each view also mirrored left to right.

    Raises:
        ConfigError: no size at all, or one that is not positive.
    """

    scales: tuple[float, ...] = (1.0,)
    min_sizes: tuple[int, ...] = ()
    max_size: int = 4000
    flip: bool = True

    def __post_init__(self) -> None:
        key, sizes = ("MIN_SIZES", self.min_sizes) if self.min_sizes else ("SCALES", self.scales)
        if not sizes or min(sizes) <= 0:
            raise ConfigError(f"TEST.AUG.{key} is {list(sizes)}, expected one or more positive numbers")
        if self.max_size < 1:
            raise ConfigError(f"TEST.AUG.MAX_SIZE is {self.max_size}, expected pixels of the longest edge allowed")

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of the views of an image of this size, mirrored ones apart."""
        edges = self.min_sizes or [scale * min(height, width) for scale in self.scales]
        # Sizes are rounded as Detectron2 rounds them.
        shapes = [ResizeShortestEdge.get_output_shape(height, width, edge, self.max_size) for edge in edges]
        return [(max(1, shape[0]), max(1, shape[1])) for shape in shapes]


class TestTimeAugmentation(nn.Module):
    """Stands in the place of a model in evaluation; takes and gives what the model does.

    Attributes:
        model: the network that sees the views.
        views: which ones.
        timer: the model's, where it has one.
    """

    __test__ = False  # the name begins as those of tests do

    def __init__(self, model: nn.Module, options: Mapping[str, Any]) -> None:
        """
        Args:
            model: in evaluation mode.
            options: SCALES, MIN_SIZES, MAX_SIZE and FLIP, as ``cfg.TEST.AUG`` has them; see :class:`Views`.
        """
        super().__init__()
        self.model = model
        self.views = Views(
            scales=tuple(options["SCALES"]),
            min_sizes=tuple(options["MIN_SIZES"]),
            max_size=options["MAX_SIZE"],
            flip=options["FLIP"],
        )
        self.timer = getattr(model, "timer", StageTimer(enabled=False))
        self.training = model.training

    def forward(self, batched_inputs: Batch) -> list[dict[str, Any]]:
        """One result an image.

        Args:
            batched_inputs: as the model takes them: ``image`` (3, h, w), ``height`` and ``width`` of the result.
                Each view of all images passes the network together, padded as the model pads a batch.
        """
        shapes = [self.views.sizes(*sample["image"].shape[-2:]) for sample in batched_inputs]
        views = list(zip(*shapes, strict=True))
        if len(views) == 1 and not self.views.flip and _is_untouched(batched_inputs, views[0]):
            return self.model(batched_inputs)
        device = next(self.model.parameters()).device
        with torch.no_grad(), self.timer.measure("network", device, len(batched_inputs)):
            averages = self._averages(batched_inputs, views)
        with torch.no_grad(), self.timer.measure("postprocessing", device, len(batched_inputs)):
            return [self.result(maps, sample) for maps, sample in zip(averages, batched_inputs, strict=True)]

    def maps(self, batched_inputs: Batch) -> list[Maps]:
        """What the network says of each image, at the size of its result; new tensors, which are added to."""
        raise NotImplementedError

    def mirror(self, maps: Maps) -> Maps:
        """The maps of a mirrored image as those of the image."""
        return {name: values.flip(-1) for name, values in maps.items()}

    def result(self, maps: Maps, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Averaged maps to what the model gives for this sample."""
        raise NotImplementedError

    def _averages(self, batch: Batch, views: Sequence[Sequence[tuple[int, int]]]) -> list[Maps]:
        sums: list[Maps] | None = None
        for sizes in views:
            view = [_resized(sample, size) for sample, size in zip(batch, sizes, strict=True)]
            found = self.maps(view)
            if self.views.flip:
                # A view and its mirror image are added first: the sum is the same whichever of the two came in.
                mirrored = self.maps([{**sample, "image": sample["image"].flip(-1)} for sample in view])
                for maps, others in zip(found, mirrored, strict=True):
                    _add(maps, self.mirror(others))
            if sums is None:
                sums = found
            else:
                for total, maps in zip(sums, found, strict=True):
                    _add(total, maps)
        assert sums is not None
        share = 1 / (len(views) * (2 if self.views.flip else 1))
        return [{name: values.mul_(share) for name, values in total.items()} for total in sums]


@TTA_REGISTRY.register()
class SemanticSegmentorWithTTA(TestTimeAugmentation):
    """For Detectron2's ``SemanticSegmentor``, with any head: ``sem_seg`` is the logarithm of mean probabilities."""

    def maps(self, batched_inputs: Batch) -> list[Maps]:
        return [{"semantic": output["sem_seg"].float().softmax(dim=0)} for output in self.model(batched_inputs)]

    def result(self, maps: Maps, sample: Mapping[str, Any]) -> dict[str, Any]:
        return {"sem_seg": logits_of_probabilities(maps["semantic"])}


def logits_of_probabilities(probabilities: torch.Tensor) -> torch.Tensor:
    """Logits whose softmax over the first axis is ``probabilities``, so that all that reads logits goes on to work."""
    return probabilities.clamp(min=SMALLEST_PROBABILITY).log_()


def _is_untouched(batch: Batch, sizes: Sequence[tuple[int, int]]) -> bool:
    return all(tuple(sample["image"].shape[-2:]) == size for sample, size in zip(batch, sizes, strict=True))


def _resized(sample: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The sample with its image at another size; the size of the result stays, and is written down."""
    image = sample["image"]
    height, width = output_size(sample, tuple(image.shape[-2:]))
    if tuple(image.shape[-2:]) != size:
        # On the device of the image, and smoothed before it is made smaller, as Pillow does.
        image = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return {**sample, "image": image, "height": height, "width": width}


def _add(total: Maps, maps: Maps) -> None:
    for name, values in maps.items():
        total[name].add_(values)
