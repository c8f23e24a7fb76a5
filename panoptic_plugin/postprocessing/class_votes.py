"""The class of each group of pixels, from the probabilities of its pixels.

Adding up the probabilities of every class over every pixel would mean to enlarge all logits. But the probability of
the most likely class, which is known, bounds those of the others: each is at most that, and at most what that leaves of
1. In most groups the bounds decide; only the others are looked at pixel by pixel.

Shapes: K centers, P thing pixels, C classes.
"""

from __future__ import annotations

import math

import torch

from panoptic_plugin.postprocessing.pair_runs import PairRuns
from panoptic_plugin.postprocessing.pixel_scores import SMALLEST_PROBABILITY, PixelScores
from panoptic_plugin.postprocessing.pixels import pixels_of

VOTES = ("soft", "hard", "log")


class ClassVotes:
    """What the pixels of each group say about its class.

    "soft": the class with the highest sum of probabilities; "hard": the most frequent of the pixels' most likely
    classes; "log": the class with the highest sum of logarithms of probabilities. Of equal ones the first counts.

    Args:
        scores: the thing pixels.
        runs: their groups, 0 to K - 1, and most likely classes.
        num_centers: K.
        is_thing: bool (C,), the classes that can be chosen.
        vote: one of :data:`VOTES`.

    Attributes:
        sizes: int64 (K,), pixels of each group.
    """

    def __init__(
        self, scores: PixelScores, runs: PairRuns, num_centers: int, is_thing: torch.Tensor, vote: str
    ) -> None:
        self._scores, self._is_thing, self._vote = scores, is_thing, vote
        self._shape = (num_centers, len(is_thing))
        own, low, high = self._bounds()
        # own[k, c]: what the pixels of k whose class is c give it; low, high: what they give each other class.
        self._values = (own, low, high)
        zeros = torch.zeros(num_centers * len(is_thing), dtype=torch.float64, device=is_thing.device)
        self._sums = [
            zeros.clone() if values is None and place > 0 else runs.sums(values, self._shape)
            for place, values in enumerate(self._values)
        ]
        self.sizes = runs.sums(None, self._shape).view(self._shape).sum(dim=1).long()
        self._chosen = torch.zeros(num_centers, dtype=torch.int64, device=is_thing.device)
        self._is_open = torch.ones(num_centers, dtype=torch.bool, device=is_thing.device)

    def move(self, index: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> ClassVotes:
        """The votes when pixels ``index`` (M,) belong to ``new`` (M,) in the place of ``old``; self stays as it is."""
        moved = object.__new__(ClassVotes)
        moved.__dict__.update(self.__dict__)
        moved._sums = [each.clone() for each in self._sums]
        moved._add(index, old, -1)
        moved._add(index, new, 1)
        lost, won = (torch.bincount(each, minlength=self._shape[0]) for each in (old, new))
        moved.sizes = self.sizes - lost + won
        moved._is_open = (old != new).new_zeros(self._shape[0])
        moved._is_open[torch.cat([old[old != new], new[old != new]]).long()] = True
        return moved

    def categories(self, instances: torch.Tensor) -> torch.Tensor:
        """int64 (K,), the class of each group; -1 for one without pixels.

        Args:
            instances: integers (P,), the groups that were counted.
        """
        own, low, high = (each.view(self._shape) for each in self._sums)
        is_there = self.sizes > 0
        least = (own + low.sum(dim=1, keepdim=True) - low).masked_fill(~self._is_thing, -torch.inf)
        floor, chosen = least.max(dim=1)
        if self._vote != "hard":
            most = (own + high.sum(dim=1, keepdim=True) - high).masked_fill(~self._is_thing, -torch.inf)
            # Sums of differences may be off by a rounding error.
            contends = most >= (floor - 1e-6 * (1 + floor.abs()))[:, None]
            contends.scatter_(1, chosen[:, None], True)
            undecided = (contends.sum(dim=1) > 1) & is_there
            # A group whose pixels are the same as before keeps what it chose.
            chosen = torch.where(undecided & ~self._is_open, self._chosen, chosen)
            undecided &= self._is_open
            if undecided.any():
                self._settle(chosen, undecided, contends, instances)
        self._chosen = chosen
        return torch.where(is_there, chosen, -1)

    def _settle(
        self, chosen: torch.Tensor, undecided: torch.Tensor, contends: torch.Tensor, instances: torch.Tensor
    ) -> None:
        """Look at every pixel of the undecided groups, for every class that could win there; changes ``chosen``."""
        index = pixels_of(undecided.index_select(0, instances))
        groups = instances.index_select(0, index)
        sums = torch.full(self._shape, -torch.inf, dtype=torch.float64, device=chosen.device)
        contends = contends & undecided[:, None]
        if self._vote == "soft":
            leading = self._scores.log_probability(chosen.index_select(0, groups), index).exp_()
            floor = torch.bincount(groups, weights=leading.double(), minlength=self._shape[0])
            most = self._sums[0].view(self._shape) + self._left_of(leading, chosen, index, groups)
            contends &= most >= (floor - 1e-6 * (1 + floor))[:, None]
            contends.scatter_(1, chosen[:, None], False)
            sums[undecided, chosen[undecided]] = floor[undecided]
        for category in contends.any(dim=0).nonzero()[:, 0].tolist():
            logarithms = self._scores.log_probability_of(category, index)
            values = logarithms.clamp_(min=math.log(SMALLEST_PROBABILITY)) if self._vote == "log" else logarithms.exp_()
            column = torch.bincount(groups, weights=values.double(), minlength=self._shape[0])
            sums[:, category] = torch.where(contends[:, category], column, sums[:, category])
        chosen[undecided] = sums.argmax(dim=1)[undecided]

    def _left_of(
        self, leading: torch.Tensor, chosen: torch.Tensor, index: torch.Tensor, groups: torch.Tensor
    ) -> torch.Tensor:
        """float64 (K, C): what pixels ``index`` give at most to a class that is neither theirs nor that of their group.

        Args:
            leading: float (M,), the probability of the class of the group.
            chosen: int64 (K,), the class of each group.
            index, groups: integers (M,).
        """
        own = self._scores.own_log_probability.index_select(0, index).exp()
        categories = self._scores.categories.index_select(0, index).long()
        left = 1 - own - torch.where(chosen.index_select(0, groups) == categories, 0, leading)
        left = torch.minimum(own, left).clamp(min=0).double()
        of_own = torch.bincount(groups * self._shape[1] + categories, weights=left, minlength=len(self._sums[0]))
        of_own = of_own.view(self._shape)
        return of_own.sum(dim=1, keepdim=True) - of_own

    def _bounds(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """What a pixel gives its own class, and at least and at most any other one: (P,), None for 0 (1 for own)."""
        if self._vote == "hard":
            return None, None, None
        probability = self._scores.own_log_probability.exp()
        left = torch.minimum(probability, 1 - probability)
        if self._vote == "soft":
            return probability, None, left
        own = self._scores.own_log_probability.clamp(min=math.log(SMALLEST_PROBABILITY))
        return own, torch.full_like(own, math.log(SMALLEST_PROBABILITY)), left.clamp(min=SMALLEST_PROBABILITY).log()

    def _add(self, index: torch.Tensor, instances: torch.Tensor, sign: int) -> None:
        pairs = instances.long() * self._shape[1] + self._scores.categories[index]
        for place, values in enumerate(self._values):
            if values is not None or place == 0:
                weights = None if values is None else values[index].double()
                self._sums[place] += sign * torch.bincount(pairs, weights=weights, minlength=len(self._sums[0]))
