"""Stretches of thing pixels that share instance and class: most neighbours do, so that there are few.

Shapes: P thing pixels, R runs, K instances, C classes.
"""

from __future__ import annotations

import numpy as np
import torch

from panoptic_plugin.postprocessing import device


class PairRuns:
    """Runs of equal pairs, in the order of the pixels; on a GPU each pixel is one.

    Args:
        instances: integers (P,), 0 to K - 1.
        categories: integers (P,), 0 to C - 1.

    Attributes:
        instances: integers (R,).
        categories: integers (R,).
    """

    def __init__(self, instances: torch.Tensor, categories: torch.Tensor) -> None:
        self._num_pixels = len(instances)
        self._starts: np.ndarray | None = None
        if device.is_cpu(instances):
            one, other = instances.numpy(), categories.numpy()
            changes = one[1:] != one[:-1]
            changes |= other[1:] != other[:-1]
            self._starts = np.append(0, np.flatnonzero(changes) + 1)[: self._num_pixels]
            instances, categories = torch.from_numpy(one[self._starts]), torch.from_numpy(other[self._starts])
        self.instances, self.categories = instances, categories

    def sums(self, values: torch.Tensor | None, shape: tuple[int, int]) -> torch.Tensor:
        """float64 (K * C,): the sum of float values (P,) over the pixels of each pair, their number for None."""
        pairs = self.instances.long() * shape[1] + self.categories
        weights = None if values is None else values.double()
        if self._starts is not None:
            lengths = np.diff(self._starts, append=self._num_pixels)
            of_runs = lengths if values is None else np.add.reduceat(values.numpy(), self._starts, dtype=np.float64)
            weights = torch.from_numpy(of_runs.astype(np.float64))
        return torch.bincount(pairs, weights=weights, minlength=shape[0] * shape[1]).double()

    def places(self, wanted: torch.Tensor) -> torch.Tensor:
        """int64 (M,), ascending: the pixels of the wanted runs, bool (R,)."""
        if self._starts is None:
            return wanted.nonzero()[:, 0]
        runs = np.flatnonzero(wanted.numpy())
        lengths = np.diff(self._starts, append=self._num_pixels)[runs]
        first = np.cumsum(lengths) - lengths
        return torch.from_numpy(np.arange(int(lengths.sum())) + np.repeat(self._starts[runs] - first, lengths))
