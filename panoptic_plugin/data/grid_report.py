"""How the grids and scale ranges of SOLO fit the objects of a dataset: who is learned where, and who is lost.

An object is learned at the levels whose scale range holds it, in the cells that its middle touches. Where objects of
an image share a cell, its class is that of the later one; an object without a cell of its own is not found. So an
object is lost if it is outside of all ranges, or if later ones cover all of its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from panoptic_plugin.data.grid_objects import GridObjects

Ranges = Sequence[Sequence[float]]

# Of SOLOv2's models for shorter edges of 640 to 800, and of its light ones for 352 to 512.
PUBLISHED_GRIDS = (40, 36, 24, 16, 12)
FINE_GRIDS = (80, 72, 48, 32, 24)
PUBLISHED_UNITS = (48, 28)
# Other ranges that are tried: of objects half as large as those of the light models, and twice as large as published.
TRIED_UNITS = (*PUBLISHED_UNITS, 14, 96)
# Shares of the objects that have to be won before other values are worth it: any, and grids with more cells.
WORTH, WORTH_MORE_CELLS = 0.002, 0.01


@dataclass(frozen=True)
class GridRule:
    """The rule by which a head learns objects.

    Attributes:
        levels: ``(sizes (T, 2), scale_ranges) -> bool (L, T)``, the levels an object is learned at.
        cells: ``(centers_yx (T, 2), sizes (T, 2), padded_size=, num_grid=, sigma=) -> int64 (T, 4)``, first and last
            row, first and last column of its cells.
    """

    levels: Callable[..., torch.Tensor]
    cells: Callable[..., torch.Tensor]


@dataclass(frozen=True)
class LevelCount:
    """One level.

    Attributes:
        num_grid, scale_range: of the level.
        instances: learned at it.
        cells: of these, each counted by itself.
        used_cells: that at least one has.
        shared_cells: that more than one has.
        covered: instances of which later ones have all cells.
    """

    num_grid: int
    scale_range: tuple[float, float]
    instances: int
    cells: int
    used_cells: int
    shared_cells: int
    covered: int


@dataclass(frozen=True)
class GridCount:
    """A dataset with certain grids and ranges.

    Attributes:
        levels: one a level.
        instances: of the dataset.
        smaller, between, larger: instances below the first range, above the last, and those in a gap.
        covered: instances of which later ones have all cells of all levels.
        by_levels: number of instances that are learned at 0, 1, 2, ... levels.
        by_cells: number of instances that have 0, 1, 2, ... cells, all levels together.
    """

    levels: list[LevelCount]
    instances: int
    smaller: int
    between: int
    larger: int
    covered: int
    by_levels: list[int]
    by_cells: list[int]

    @property
    def outside(self) -> int:
        """Instances outside of all ranges."""
        return self.smaller + self.between + self.larger

    @property
    def lost(self) -> int:
        """Instances that are not learned."""
        return self.outside + self.covered

    def share(self, number: int) -> float:
        """Of all instances; 0 where there are none."""
        return number / self.instances if self.instances else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "outside": self.outside, "lost": self.lost, "lost_share": self.share(self.lost)}


def count_grids(
    objects: GridObjects, rule: GridRule, *, num_grids: Sequence[int], scale_ranges: Ranges, sigma: float
) -> GridCount:
    """Count who is learned where.

    Args:
        objects: of the dataset.
        rule: the head's.
        num_grids: cells in each direction, a level.
        scale_ranges: a level's (lowest, highest) square root of the box's area.
        sigma: the share of a box that is its middle.
    """
    used = rule.levels(objects.sizes, scale_ranges).numpy()
    own = np.zeros(len(objects.images), dtype=bool)
    num_cells = np.zeros(len(objects.images), dtype=np.int64)
    levels = []
    for number, (num_grid, scale_range) in enumerate(zip(num_grids, scale_ranges, strict=True)):
        members = used[number].nonzero()[0]
        keys, holders = _cells(objects, members, rule, num_grid, sigma)
        # Holders ascend with the keys' order in an image, so that the last of a cell is the later object.
        distinct, last, counts = np.unique(keys[::-1], return_index=True, return_counts=True)
        owners = np.unique(holders[::-1][last])
        own[owners] = True
        num_cells += np.bincount(holders, minlength=len(num_cells))
        levels.append(
            LevelCount(
                num_grid=int(num_grid),
                scale_range=(scale_range[0], scale_range[1]),
                instances=len(members),
                cells=len(keys),
                used_cells=len(distinct),
                shared_cells=int((counts > 1).sum()),
                covered=len(members) - len(owners),
            )
        )
    by_levels = used.sum(axis=0)
    scales, outside = objects.scales, by_levels == 0
    lowest, highest = min(low for low, _ in scale_ranges), max(high for _, high in scale_ranges)
    smaller, larger = outside & (scales < lowest), outside & (scales > highest)
    return GridCount(
        levels=levels,
        instances=len(own),
        smaller=int(smaller.sum()),
        between=int((outside & ~smaller & ~larger).sum()),
        larger=int(larger.sum()),
        covered=int((~own & ~outside).sum()),
        by_levels=np.bincount(by_levels, minlength=len(levels) + 1).tolist(),
        by_cells=np.bincount(num_cells).tolist(),
    )


def _cells(
    objects: GridObjects, members: np.ndarray, rule: GridRule, num_grid: int, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """(keys, holders) int64 (P,): a number for each cell of each image, and the objects that have it, ascending."""
    borders = np.zeros((len(members), 4), dtype=np.int64)
    for here in _by_size(objects.padded[members]):
        some = torch.from_numpy(members[here])
        height, width = objects.padded[members[here[0]]]
        found = rule.cells(
            objects.centers_yx[some],
            objects.sizes[some],
            padded_size=(int(height), int(width)),
            num_grid=num_grid,
            sigma=sigma,
        )
        borders[here] = found.numpy()
    step = np.arange(3)  # at most one cell around the center's
    rows, columns = borders[:, 0, None] + step, borders[:, 2, None] + step
    inside = (rows <= borders[:, 1, None])[:, :, None] & (columns <= borders[:, 3, None])[:, None, :]
    cells = rows[:, :, None] * num_grid + columns[:, None, :]
    keys = objects.images[members][:, None, None] * num_grid**2 + cells
    holders = np.broadcast_to(members[:, None, None], keys.shape)
    return keys[inside], holders[inside]


def _by_size(sizes: np.ndarray) -> list[np.ndarray]:
    """The rows of ``sizes`` (P, 2) that are alike, as arrays of their numbers."""
    if not len(sizes):
        return []
    keys = sizes[:, 0] * (sizes[:, 1].max() + 1) + sizes[:, 1]
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


@dataclass(frozen=True)
class Choice:
    """Grids and ranges, and what they give."""

    num_grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    count: GridCount

    @property
    def num_cells(self) -> int:
        """Cells of an image, which the head's cost goes with."""
        return sum(num_grid**2 for num_grid in self.num_grids)


def compare_choices(
    objects: GridObjects, rule: GridRule, *, num_grids: Sequence[int], scale_ranges: Ranges, sigma: float
) -> list[Choice]:
    """The given values first; then others: published and finer grids, ranges for smaller and larger objects."""
    given = (tuple(num_grids), tuple((low, high) for low, high in scale_ranges))
    grids = [given[0], *(grid for grid in (PUBLISHED_GRIDS, FINE_GRIDS) if len(grid) == len(given[0]))]
    largest = float(objects.scales.max(initial=1.0))
    ranges = [given[1], *(ranges_of(unit, len(given[0]), largest) for unit in TRIED_UNITS)]
    pairs = dict.fromkeys((grid, one) for one in ranges for grid in grids)
    return [
        Choice(grid, one, count_grids(objects, rule, num_grids=grid, scale_ranges=one, sigma=sigma))
        for grid, one in pairs
    ]


def ranges_of(unit: int, num_levels: int, largest: float) -> tuple[tuple[float, float], ...]:
    """Ranges as SOLOv2 has them, each twice as high as the one before and half of it overlapping.

    Args:
        unit: the lowest scale of the second level; 48 is published, 28 in light models.
        num_levels: how many.
        largest: scale of the largest object.
    """
    lows = [1.0, *(float(unit * 2**level) for level in range(num_levels - 1))]
    highs = [float(unit * 2 ** (level + 1)) for level in range(num_levels)]
    published = {48: 2048.0, 28: 896.0}
    highs[-1] = max(published.get(unit, 2 * highs[-1]), float(np.ceil(largest)))
    return tuple(zip(lows, highs, strict=True))


def best_choice(choices: Sequence[Choice]) -> Choice:
    """The first of ``choices``, or another one that loses clearly fewer objects: more cells have to be worth it."""
    given = choices[0]

    def best_of(some: Sequence[Choice]) -> Choice:
        return min(some, key=lambda choice: choice.count.lost)  # the first of equals

    best = best_of([choice for choice in choices if choice.num_cells <= given.num_cells])
    if given.count.share(given.count.lost - best.count.lost) < WORTH:
        best = given
    finer = best_of(choices)
    worth = best.count.share(best.count.lost - finer.count.lost) >= WORTH_MORE_CELLS
    return finer if worth else best
