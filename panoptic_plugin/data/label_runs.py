"""A label map as runs: stretches of a row that hold one id.

A label of two million pixels has some ten thousand runs, so what depends on the segment is computed for each run and
written out once (:meth:`LabelRuns.spread`), and sums over pixels become sums over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelRuns:
    """The R runs of a label map in reading order.

    Attributes:
        shape: (H, W) of the map.
        y, x: int64 (R,), a run's first pixel.
        lengths: int64 (R,), pixels.
        numbers: int64 (R,), the segment's place in the list of ids, from 1; 0 for an id that is not listed.
        num_segments: length of that list.
    """

    shape: tuple[int, int]
    y: np.ndarray
    x: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray
    num_segments: int

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value a run, (R,), to one a pixel, (H, W) of the same type."""
        return np.repeat(values, self.lengths).reshape(self.shape)

    def areas(self) -> np.ndarray:
        """Pixels of each number, int64 (num_segments + 1,)."""
        return self._sum(self.lengths).astype(np.int64)

    def centers_of_mass(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean y and mean x of each number's pixels, float64 (num_segments + 1,); NaN without a pixel."""
        x_sums = self.lengths * self.x + self.lengths * (self.lengths - 1) // 2
        with np.errstate(invalid="ignore"):
            return self._sum(self.lengths * self.y) / self.areas(), self._sum(x_sums) / self.areas()

    def boxes(self) -> np.ndarray:
        """First x and y, and one past the last x and y, of each number but 0, int64 (num_segments, 4).

        Without a pixel the first lie beyond the last.
        """
        height, width = self.shape
        edges = np.tile(np.array([width, height, 0, 0]), (self.num_segments + 1, 1))
        for column, places in enumerate((self.x, self.y)):
            np.minimum.at(edges[:, column], self.numbers, places)
        for column, places in enumerate((self.x + self.lengths, self.y + 1), start=2):
            np.maximum.at(edges[:, column], self.numbers, places)
        return edges[1:]

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of a run's integers over the runs of each number; exact, as they stay far below 2**53."""
        return np.bincount(self.numbers, weights=values, minlength=self.num_segments + 1)


def find_runs(ids: np.ndarray, segment_ids: Sequence[int]) -> LabelRuns:
    """The runs of a label map.

    Args:
        ids: int (H, W), any values.
        segment_ids: N different ids, which get the numbers 1 to N.
    """
    height, width = ids.shape
    flat = ids.ravel()
    begins = np.ones(ids.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: max(width, 1)] = True
    starts = np.flatnonzero(begins)
    y = starts // max(width, 1)
    return LabelRuns(
        shape=(height, width),
        y=y,
        x=starts - y * width,
        lengths=np.diff(starts, append=ids.size),
        numbers=_number(flat[starts], segment_ids),
        num_segments=len(segment_ids),
    )


def _number(values: np.ndarray, segment_ids: Sequence[int]) -> np.ndarray:
    """Place of each value in the list, from 1; 0 where it is not in it."""
    listed = np.array(segment_ids, dtype=np.int64)
    if not len(listed):
        return np.zeros(len(values), dtype=np.int64)
    # A table over 24-bit ids would be faster to look up, but its memory is slower to get than all of this takes.
    order = np.argsort(listed)
    ascending = listed[order]
    place = np.searchsorted(ascending, values.astype(np.int64))
    place[place == len(ascending)] = 0
    return np.where(ascending[place] == values, order[place] + 1, 0)
