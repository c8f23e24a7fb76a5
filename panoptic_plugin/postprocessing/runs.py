"""Stretches of pixels that equal their neighbours: most pixels of an image do, so that there are few.

Shapes: P pixels, R runs.
"""

from __future__ import annotations

import numpy as np
import torch

from panoptic_plugin.postprocessing import device

SHORTEST = 4  # pixels that a run must have in the mean to be worth it


class Runs:
    """Runs of pixels that are equal in all fields, in the order of the pixels.

    Where that saves nothing, which is on a GPU and in noise, each pixel is one.

    Args:
        fields: integers (P,).

    Attributes:
        fields: the same of the runs, integers (R,).
    """

    def __init__(self, *fields: torch.Tensor) -> None:
        self.fields = list(fields)
        self._starts: np.ndarray | None = None
        self._num_pixels = len(fields[0])
        if device.is_cpu(fields[0]):
            arrays = [field.numpy() for field in fields]
            is_first = np.ones(self._num_pixels, dtype=bool)
            np.not_equal(arrays[0][1:], arrays[0][:-1], out=is_first[1:])
            for array in arrays[1:]:
                is_first[1:] |= array[1:] != array[:-1]
            if np.count_nonzero(is_first) * SHORTEST > self._num_pixels:
                return
            self._starts = np.flatnonzero(is_first)
            self.fields = [torch.from_numpy(array.take(self._starts, mode="clip")) for array in arrays]

    def count(self, labels: torch.Tensor, num_labels: int) -> torch.Tensor:
        """Pixels of each label, int64 (num_labels,), from labels of the runs, integers (R,)."""
        lengths = None if self._starts is None else torch.from_numpy(self._lengths())
        return torch.bincount(labels, weights=lengths, minlength=num_labels).long()

    def sums_of(self, values: torch.Tensor, labels: torch.Tensor, num_labels: int) -> torch.Tensor:
        """float64 (num_labels,): the sum of float values (P,) over the pixels of each label, integers (R,)."""
        if self._starts is None:
            return torch.bincount(labels, weights=values.double(), minlength=num_labels).double()
        of_runs = torch.from_numpy(np.add.reduceat(values.numpy(), self._starts, dtype=np.float64))
        return torch.bincount(labels, weights=of_runs, minlength=num_labels).double()

    def places(self, wanted: torch.Tensor) -> torch.Tensor:
        """int64 (M,), ascending: the pixels of the wanted runs, bool (R,)."""
        if self._starts is None:
            return torch.from_numpy(np.flatnonzero(wanted.numpy())) if device.is_cpu(wanted) else wanted.nonzero()[:, 0]
        kept = np.flatnonzero(wanted.numpy())
        starts, lengths = self._starts[kept], self._lengths()[kept]
        places = np.arange(int(lengths.sum()))
        places += (starts - (lengths.cumsum() - lengths)).repeat(lengths)
        return torch.from_numpy(places)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """The values (R,) of the runs for each pixel, (P,)."""
        return values if self._starts is None else torch.from_numpy(values.numpy().repeat(self._lengths()))

    def _lengths(self) -> np.ndarray:
        assert self._starts is not None
        return np.diff(self._starts, append=self._num_pixels)
