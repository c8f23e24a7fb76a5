"""Pixels that maps of one image share, counted by runs.

Along a row of an image most pixels are equal to the one before, in the truth as in the prediction. So the maps are
compared with themselves, shifted by one pixel; all that follows (tables, histograms) works on the runs between the
changes, a twentieth of the pixels or less, and is exact for any maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Runs(NamedTuple):
    """Stretches of an image, row after row, on which each of several maps is constant.

    Attributes:
        values: for each map, what it holds on each run: (R,) of the map's dtype.
        lengths: int64 (R,), pixels of each run; their sum is that of the image's pixels.
    """

    values: tuple[np.ndarray, ...]
    lengths: np.ndarray


def shared_runs(*maps: np.ndarray) -> Runs:
    """The runs of one or more maps of the same shape (H, W)."""
    flat = [one.reshape(-1) for one in maps]
    if not flat[0].size:
        return Runs(tuple(flat), np.zeros(0, dtype=np.int64))
    changes = flat[0][1:] != flat[0][:-1]
    for one in flat[1:]:
        changes |= one[1:] != one[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return Runs(tuple(one[starts] for one in flat), np.diff(starts, append=flat[0].size))


def pixels_by_value(values: np.ndarray, lengths: np.ndarray, num_values: int) -> np.ndarray:
    """Pixels of each value: int64 (num_values,) or more, from integers from 0 on (R,) and the lengths of their runs."""
    # Weights are float64, which counts exactly up to 2**53 pixels.
    return np.bincount(values, weights=lengths, minlength=num_values).astype(np.int64)


def pixels_by_pair(rows: np.ndarray, columns: np.ndarray, lengths: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Pixels of each pair of values: int64 of ``shape``, from two arrays of integers (R,) and the lengths."""
    pairs = rows.astype(np.int64) * shape[1] + columns
    return pixels_by_value(pairs, lengths, shape[0] * shape[1]).reshape(*shape)
