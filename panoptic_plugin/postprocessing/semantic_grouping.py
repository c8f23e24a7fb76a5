"""Pixels to instances by offset and class together, so that neither alone decides where the two disagree.

The plain rule gives each thing pixel to the center nearest to where its offset points and each group the class of most
of its pixels. Here a pixel whose class is not that of its group may go to a center of its own class, if that is not
much further away; otherwise its class is taken for noise. See docs/grouping.md.

Shapes: (H, W) image, K centers, P thing pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from panoptic_plugin.postprocessing.cheapest_centers import cheapest_centers
from panoptic_plugin.postprocessing.class_votes import VOTES, ClassVotes
from panoptic_plugin.postprocessing.grouping import centers_of_pixels
from panoptic_plugin.postprocessing.merge import thing_table
from panoptic_plugin.postprocessing.pair_runs import PairRuns
from panoptic_plugin.postprocessing.pixel_scores import PixelScores
from panoptic_plugin.postprocessing.pixels import put, rows_and_columns
from panoptic_plugin.postprocessing.semantic import SemanticLogits, classify

MODES = ("majority", "class_strict", "semantic_map")


@dataclass(frozen=True)
class GroupingOptions:
    """How pixels are grouped; the defaults are the plain rule.

    Attributes:
        mode: "majority", the plain rule; "semantic_map", the lowest energy; "class_strict", the nearest center of the
            pixel's class, whatever the distance, which "semantic_map" tends to as ``weight`` grows.
        weight: of the logarithm of the probability in the energy, lambda.
        sigma: pixels of the result; squared distances are divided by twice its square.
        iterations: how often pixels are regrouped at most; classes of the groups are chosen anew in between.
        vote: how a group chooses its class, see :class:`ClassVotes`.
        void_radius: a pixel that points further away than that from its center, in pixels of the result, and whose
            probability of the group's class is below ``void_probability``, becomes void. 0 leaves none out.
        void_probability: see there.
        spawn_area: connected pixels of a class, at least so many, that all point further away than ``spawn_radius``
            from each center of the class become an instance. 0 makes none.
        spawn_radius: in pixels of the result.

    Raises:
        ValueError: a value out of its range.
    """

    mode: str = "majority"
    weight: float = 1.0
    sigma: float = 10.0
    iterations: int = 3
    vote: str = "soft"
    void_radius: float = 0.0
    void_probability: float = 0.5
    spawn_area: float = 0
    spawn_radius: float = 64.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        if self.vote not in VOTES:
            raise ValueError(f"vote is {self.vote!r}, expected one of {', '.join(VOTES)}")
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}, expected more than 0 pixels")
        for name in ("weight", "iterations", "void_radius", "spawn_area", "spawn_radius"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")

    def scaled(self, factor: float) -> GroupingOptions:
        """For an image ``factor`` times as wide and high."""
        if factor == 1:
            return self
        lengths = {name: getattr(self, name) * factor for name in ("sigma", "void_radius", "spawn_radius")}
        return replace(self, **lengths, spawn_area=self.spawn_area * factor**2)


def group_with_semantics(
    centers: torch.Tensor,
    offsets: torch.Tensor,
    probabilities: torch.Tensor,
    thing_ids: Collection[int],
    options: GroupingOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Instance of each thing pixel, and class of each instance.

    Args:
        centers: (K, 2) centers (y, x) in pixels.
        offsets: float (2, H, W), (dy, dx) in pixels.
        probabilities: float (C, H, W), summing up to 1 over the classes.
        thing_ids: the classes that are things; only pixels whose most likely class is one of them are grouped.
        options: see there; its two last steps (void, spawn) are those of
            :func:`~panoptic_plugin.postprocessing.panoptic_deeplab.panoptic_from_outputs`.

    Returns:
        int64 (H, W), 1 to K in the order of ``centers``, 0 outside; int64 (K,), -1 for a center without pixels.
    """
    logits = SemanticLogits(probabilities.float().clamp(min=torch.finfo(torch.float32).tiny).log())
    is_thing = thing_table(thing_ids, logits.num_classes, offsets.device)
    semantic = classify(logits, is_thing)
    instance_ids = torch.zeros(semantic.labels.shape, dtype=torch.int64, device=offsets.device)
    if len(centers) == 0:
        return instance_ids, torch.zeros(0, dtype=torch.int64, device=offsets.device)
    nearest = centers_of_pixels(centers, offsets, semantic.pixels)
    instances, categories = regroup(centers, offsets, nearest, PixelScores(logits, semantic), is_thing, options)
    instance_ids.view(-1)[semantic.pixels] = instances.long() + 1
    return instance_ids, categories


def regroup(
    centers: torch.Tensor,
    offsets: torch.Tensor,
    nearest: torch.Tensor,
    scores: PixelScores,
    is_thing: torch.Tensor,
    options: GroupingOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the nearest center of each thing pixel to its instance, and the classes of the instances.

    A pixel whose most likely class is that of its nearest center stays there: nothing is nearer, nothing likelier.

    Args:
        centers: (K, 2), K > 0.
        offsets: float (2, H, W).
        nearest: int32 (P,), 0 to K - 1.
        scores: of the thing pixels.
        is_thing: bool (C,).
        options: see there.

    Returns:
        int32 (P,), 0 to K - 1, and int64 (K,) classes, -1 for a center without pixels.
    """
    vote = "hard" if options.mode == "majority" else options.vote
    runs = PairRuns(nearest, scores.categories)
    votes = ClassVotes(scores, runs, len(centers), is_thing, vote)
    first, instances = votes, nearest
    categories = votes.categories(nearest)
    # A center that is the nearest of no pixel has no class, and never gets a pixel.
    can_move = options.mode == "class_strict" or (options.mode == "semantic_map" and options.weight > 0)
    for _ in range(int(options.iterations) if can_move else 0):
        index = runs.places(categories[runs.instances.long()] != runs.categories)
        old = nearest.index_select(0, index)
        new = _regrouped(centers.float(), offsets, categories, old.long(), index, scores, options).int()
        instances = nearest.clone()
        put(instances, index, new)
        votes = first.move(index, old, new)
        changed = votes.categories(instances)
        # A center that has lost all its pixels keeps its class, and may get some back.
        changed = torch.where(changed < 0, categories, changed)
        if torch.equal(changed, categories):
            break
        categories = changed
    return instances, torch.where(votes.sizes > 0, categories, -1)


def _regrouped(
    centers: torch.Tensor,
    offsets: torch.Tensor,
    categories: torch.Tensor,
    nearest: torch.Tensor,
    index: torch.Tensor,
    scores: PixelScores,
    options: GroupingOptions,
) -> torch.Tensor:
    """Instances int64 (M,) of the pixels ``index`` (M,), whose class is not that of their ``nearest`` center."""
    if len(index) == 0:
        return nearest
    if options.mode == "class_strict":
        return _nearest_of_likeliest(centers, offsets, categories, nearest, index, scores)
    targets = target_of(offsets, scores.pixels.index_select(0, index))
    return cheapest_centers(
        centers, categories, targets, nearest, index, scores, float(options.weight), float(options.sigma)
    )[0]


def target_of(offsets: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the offsets (2, H, W) of pixels, int64 (M,) positions y * W + x, point to: y and x, float32 (M,)."""
    y, x = rows_and_columns(pixels, offsets.shape[2])
    flat = offsets.detach().reshape(2, -1)
    return y + flat[0].index_select(0, pixels), x + flat[1].index_select(0, pixels)


def _nearest_of_likeliest(
    centers: torch.Tensor,
    offsets: torch.Tensor,
    categories: torch.Tensor,
    nearest: torch.Tensor,
    index: torch.Tensor,
    scores: PixelScores,
) -> torch.Tensor:
    """The nearest center of the likeliest of those classes that have a center."""
    wanted = scores.categories.index_select(0, index).long()
    present = categories[categories >= 0].unique()
    without = (~torch.isin(wanted, present)).nonzero()[:, 0]
    if len(without):
        some = index.index_select(0, without)
        logarithms = torch.stack([scores.log_probability_of(category, some) for category in present.tolist()])
        wanted[without] = present[logarithms.argmax(dim=0)]
    found, same = nearest.clone(), categories[nearest]
    for category in present.tolist():
        members = (categories == category).nonzero()[:, 0]
        moving = ((wanted == category) & (same != category)).nonzero()[:, 0]
        if len(moving):
            pixels = scores.pixels.index_select(0, index.index_select(0, moving))
            found[moving] = members[centers_of_pixels(centers[members], offsets, pixels).long()]
    return found
