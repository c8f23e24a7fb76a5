"""Stretches of thing pixels that share instance and class.

Shapes: P thing pixels, R runs, K instances, C classes.
"""

from __future__ import annotations

import torch

from panoptic_plugin.postprocessing.runs import Runs


class PairRuns(Runs):
    """Runs of equal pairs, in the order of the pixels.

    Args:
        instances: integers (P,), 0 to K - 1.
        categories: integers (P,), 0 to C - 1.

    Attributes:
        instances: integers (R,).
        categories: integers (R,).
    """

    def __init__(self, instances: torch.Tensor, categories: torch.Tensor) -> None:
        super().__init__(instances, categories)
        self.instances, self.categories = self.fields

    def count_pairs(self, shape: tuple[int, int]) -> torch.Tensor:
        """int64 (K, C), how many pixels have each pair."""
        return self.count(self._pairs(shape), shape[0] * shape[1]).view(shape)

    def sums(self, values: torch.Tensor | None, shape: tuple[int, int]) -> torch.Tensor:
        """float64 (K * C,): the sum of float values (P,) over the pixels of each pair, their number for None."""
        if values is None:
            return self.count_pairs(shape).double().view(-1)
        return self.sums_of(values, self._pairs(shape), shape[0] * shape[1])

    def _pairs(self, shape: tuple[int, int]) -> torch.Tensor:
        return self.instances.long() * shape[1] + self.categories
