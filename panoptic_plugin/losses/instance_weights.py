"""Weights of pixels in the losses by how well each object is classified.

A pixel of a true object weighs more the less likely the network finds the class of the object over all of its pixels:
missed and confused objects count more than those that are found. Stuff keeps its weight, and the sum of all weights
stays what it was, so that the losses keep their scale. See docs/instance_weights.md.

Shapes: N images of H x W pixels, C classes, K instances of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

MODES = ("none", "small_area", "instance_ce", "hist_ce")
LOSSES = ("semantic", "center", "offset")
SMALLEST_PROBABILITY = 1e-6
HISTOGRAM_EPSILON = 1e-7
MOST_FOR_AREA = 3.0


@dataclass(frozen=True)
class InstanceWeightOptions:
    """Which weights there are, and on what.

    Attributes:
        mode: "small_area", more for small objects, as the targets say; "none", 1 everywhere; "instance_ce", that of
            small objects times a factor by the cross entropy of each object; "hist_ce", times one by the histograms of
            classes in each predicted instance, which compares proportions and not pixels.
        beta: "instance_ce" has factors from 1 to 1 + ``beta``.
        tau: mean cross entropy of an object from which on its factor is the highest.
        area_gamma: objects of fewer than ``area_reference`` pixels weigh ``(reference / area) ** gamma`` more, at most
            :data:`MOST_FOR_AREA` times; 0 leaves it out.
        area_reference: in pixels.
        consistency: added to the factor, times the share of the predicted instance around a pixel that is not of the
            pixel's class (1 where there is no predicted instance); 0 leaves it out.
        apply_to: the losses that are weighted so, of :data:`LOSSES`.

    Raises:
        ValueError: a value out of its range.
    """

    mode: str = "small_area"
    beta: float = 2.0
    tau: float = 2.0
    area_gamma: float = 0.0
    area_reference: float = 4096
    consistency: float = 0.0
    apply_to: tuple[str, ...] = ("semantic",)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        if unknown := [name for name in self.apply_to if name not in LOSSES]:
            raise ValueError(f"apply_to holds {unknown[0]!r}, expected some of {', '.join(LOSSES)}")
        for name in ("tau", "area_reference"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("beta", "area_gamma", "consistency"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")

    @property
    def needs_predictions(self) -> bool:
        """Whether the weights depend on what the network says."""
        return self.mode in ("instance_ce", "hist_ce")

    @property
    def needs_groups(self) -> bool:
        """Whether they depend on the predicted instances."""
        return self.mode == "hist_ce" or (self.mode == "instance_ce" and self.consistency > 0)


@torch.no_grad()
def instance_weight_map(
    options: InstanceWeightOptions,
    *,
    logits: torch.Tensor,
    targets: torch.Tensor,
    instance_ids: torch.Tensor,
    base_weights: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
    ignore_value: int = 255,
) -> torch.Tensor:
    """Weights of the semantic loss: the factor of each pixel times its base weight, with the sum of the base weights.

    Without any gradient, 0 where the target is ignored, which is left out of both sums.

    Args:
        options: see there.
        logits: float (N, C, h, w) whose softmax is the probabilities, of any size.
        targets: int64 (N, H, W), class indices or ``ignore_value``.
        instance_ids: int64 (N, H, W), 1, 2, ... on the true objects of an image, 0 elsewhere.
        base_weights: float (N, H, W), those of small objects; 1 everywhere if None.
        groups: see :func:`instance_factors`.
        ignore_value: the label without a loss.

    Returns:
        float32 (N, H, W). "none" and "small_area" give 1 and the base weights as they are.
    """
    base = torch.ones(targets.shape, device=targets.device) if base_weights is None else base_weights.float()
    if options.mode == "none":
        return torch.ones_like(base)
    if options.mode == "small_area":
        return base
    factors = instance_factors(
        options, logits=logits, targets=targets, instance_ids=instance_ids, groups=groups, ignore_value=ignore_value
    )
    return keep_sum(base * (targets != ignore_value), factors)


def keep_sum(base: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """``base * factors``, both float (N, H, W), scaled to the sum of ``base``."""
    weights = base * factors
    total = weights.double().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return weights * (base.double().sum() / total).float()


@torch.no_grad()
def instance_factors(
    options: InstanceWeightOptions,
    *,
    logits: torch.Tensor,
    targets: torch.Tensor,
    instance_ids: torch.Tensor,
    groups: torch.Tensor | None = None,
    ignore_value: int = 255,
) -> torch.Tensor:
    """How many times as much a pixel weighs for its object: 1 or more, and 1 on stuff; the sum is not kept.

    Args:
        options: of a mode that looks at the network.
        logits, targets, instance_ids, ignore_value: as in :func:`instance_weight_map`.
        groups: int64 (N, H, W), 1, 2, ... on the predicted instances of an image, 0 elsewhere; the true ones if None.

    Returns:
        float32 (N, H, W).
    """
    labelled = targets != ignore_value
    groups = instance_ids if groups is None else groups
    if options.mode == "hist_ce":
        return 1 + _histogram_cross_entropy(logits, targets, _count_up(groups), labelled)
    ids = _count_up(instance_ids)
    factors = _cross_entropy_factors(options, logits, targets, ids, labelled)
    if options.consistency > 0:
        share = _share_of_own_class(targets, _count_up(groups), labelled, logits.shape[1])
        factors = factors + options.consistency * (1 - share)
    return torch.where((ids > 0) & labelled, factors, 1.0)


def _cross_entropy_factors(
    options: InstanceWeightOptions,
    logits: torch.Tensor,
    targets: torch.Tensor,
    ids: torch.Tensor,
    labelled: torch.Tensor,
) -> torch.Tensor:
    """float32 (N, H, W), that of the object of each pixel; of no meaning outside of objects."""
    losses = F.cross_entropy(_at_size_of(logits, targets), targets.masked_fill(~labelled, 0), reduction="none")
    losses = losses.clamp(max=-math.log(SMALLEST_PROBABILITY))
    inside = ((ids > 0) & labelled).flatten()
    of_pixels = ids.flatten()[inside]
    number = int(ids.max()) + 1
    area = torch.bincount(of_pixels, minlength=number)
    mean = torch.bincount(of_pixels, weights=losses.flatten()[inside].double(), minlength=number) / area.clamp(min=1)
    factor = 1 + options.beta * mean.clamp(max=options.tau) / options.tau
    if options.area_gamma > 0:
        relative = options.area_reference / area.clamp(min=1).double()
        factor = factor * (relative**options.area_gamma).clamp(1, MOST_FOR_AREA)
    return factor.float()[ids]


def _histogram_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, labelled: torch.Tensor
) -> torch.Tensor:
    """float32 (N, H, W): ``-sum_c true(c) log(predicted(c))`` of the shares of classes in each group, 0 outside."""
    inside = ((groups > 0) & labelled).flatten()
    number, num_classes = int(groups.max()) + 1, logits.shape[1]
    base = groups.flatten()[inside] * num_classes
    predicted = _at_size_of(logits, targets).argmax(dim=1).flatten()[inside]
    shares = []
    for classes in (targets.flatten()[inside], predicted):
        counts = torch.bincount(base + classes, minlength=number * num_classes).view(number, num_classes).double()
        shares.append(counts / counts.sum(dim=1, keepdim=True).clamp(min=1))
    # A share of exactly 1 gives -1e-7, which no weight may be.
    values = -(shares[0] * (shares[1] + HISTOGRAM_EPSILON).log()).sum(dim=1)
    values = values.clamp(min=0)
    return torch.where((groups > 0) & labelled, values.float()[groups], 0.0)


def _share_of_own_class(
    targets: torch.Tensor, groups: torch.Tensor, labelled: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """float32 (N, H, W): how much of the group around a pixel is truly of the pixel's class; 0 without a group."""
    inside = (groups > 0) & labelled
    pairs = groups * num_classes + targets.masked_fill(~labelled, 0)
    number = int(groups.max()) + 1
    counts = torch.bincount(pairs[inside], minlength=number * num_classes).view(number, num_classes).float()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    return shares.flatten()[pairs] * inside


def _at_size_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """float32 (N, C, H, W), enlarged bilinearly where they are smaller."""
    logits = logits.detach().float()
    if logits.shape[-2:] == targets.shape[-2:]:
        return logits
    return F.interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)


def _count_up(ids: torch.Tensor) -> torch.Tensor:
    """Ids (N, H, W) of each image, 0 for none, to ids of the batch: 0 stays, all others differ between images."""
    start = torch.arange(len(ids), device=ids.device).view(-1, 1, 1) * (ids.max() if ids.numel() else 0)
    return torch.where(ids > 0, ids + start, 0)
