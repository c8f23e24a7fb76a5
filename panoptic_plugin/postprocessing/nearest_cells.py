"""Nearest center of many points on a CPU, exactly, in a time that hardly grows with the number of centers.

The plane is cut into square cells. Most cells lie so far from the border between two centers that one center is the
nearest of all their points; a point in one of those costs a look-up. For the points of the other cells only the few
centers that can be the nearest somewhere in the cell are compared. Shapes: K centers, P points, M cells.
"""

from __future__ import annotations

import numpy as np

CELL = 16.0  # pixels
MARGIN = 8  # cells around the centers; whatever lies further out counts as one outermost ring
DISTANCES_AT_A_TIME = 1 << 18
# Squared float32 distances this close, relatively, may compare either way, or be equal once their root is rounded
# (worst case 8e-7).
ROUNDING = 1e-5


def nearest_by_cells(centers: np.ndarray, target_y: np.ndarray, target_x: np.ndarray) -> np.ndarray:
    """Index of the nearest center in float32 arithmetic, the first of several.

    Args:
        centers: float32 (K, 2) centers (y, x), K > 0.
        target_y: float32 (P,).
        target_x: float32 (P,).

    Returns:
        int32 (P,), 0 to K - 1.
    """
    low = np.floor(centers.min(axis=0) / CELL) - MARGIN
    high = np.floor(centers.max(axis=0) / CELL) + MARGIN + 1
    num_cells = int(high[0] - low[0]), int(high[1] - low[1])
    cell = _cell_along(target_y, low[0], num_cells[0]) * num_cells[1] + _cell_along(target_x, low[1], num_cells[1])
    used = np.bincount(cell, minlength=num_cells[0] * num_cells[1]).nonzero()[0]
    used_cell = np.zeros(num_cells[0] * num_cells[1], dtype=np.int32)
    used_cell[used] = np.arange(len(used))
    start, candidates = _candidates(centers, used, low, num_cells)
    cell = used_cell.take(cell)
    nearest = candidates.take(start[:-1]).take(cell)
    undecided = (np.diff(start) > 1).take(cell).nonzero()[0]
    cell, target_y, target_x = cell.take(undecided), target_y.take(undecided), target_x.take(undecided)
    nearest[undecided] = _compare(centers, start.take(cell), start.take(cell + 1), candidates, target_y, target_x)
    return nearest


def _cell_along(target: np.ndarray, low: float, num_cells: int) -> np.ndarray:
    """Cell of each coordinate along one axis, int32 (P,)."""
    with np.errstate(invalid="ignore"):
        # No number and infinity become some integer, and this one of the outermost ring.
        cell = np.floor(target * np.float32(1 / CELL)).astype(np.int32)
    return np.clip(cell, int(low), int(low) + num_cells - 1) - int(low)


def _candidates(
    centers: np.ndarray, used: np.ndarray, low: np.ndarray, num_cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Centers that can be the nearest of a point, for each used cell.

    Returns:
        ``start`` int64 (M + 1,) and ``candidates`` int32: those of cell m are ``candidates[start[m]:start[m + 1]]``,
        ascending.
    """
    row, column = np.divmod(used, num_cells[1])
    outermost = (row == 0) | (row == num_cells[0] - 1) | (column == 0) | (column == num_cells[1] - 1)
    middle_y, middle_x = (row + low[0] + 0.5) * CELL, (column + low[1] + 0.5) * CELL
    chunk = max(1, DISTANCES_AT_A_TIME // len(centers))
    counts, candidates = [np.zeros(1, dtype=np.int64)], []
    for begin in range(0, len(used), chunk):
        part = slice(begin, begin + chunk)
        possible = _possible(centers, middle_y[part], middle_x[part]) | outermost[part, None]
        counts.append(possible.sum(axis=1))
        candidates.append(possible.nonzero()[1].astype(np.int32))
    return np.concatenate(counts).cumsum(), np.concatenate(candidates)


def _possible(centers: np.ndarray, middle_y: np.ndarray, middle_x: np.ndarray) -> np.ndarray:
    """bool (M, K): the center is at some point of the cell no further away than the center nearest to its middle.

    Between two centers the difference of the squared distances is linear in the point. So over a cell it changes from
    its value in the middle by at most the size of the cell times the distance of the centers in the city-block metric.
    """
    y, x = centers[:, 0].astype(np.float64), centers[:, 1].astype(np.float64)
    squared = (y - middle_y[:, None]) ** 2 + (x - middle_x[:, None]) ** 2
    own = squared.argmin(axis=1)
    least = squared.min(axis=1, keepdims=True)
    change = CELL * (np.abs(y - y[own, None]) + np.abs(x - x[own, None]))
    return squared <= least + change + ROUNDING * (least + CELL**2)


def _compare(
    centers: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    candidates: np.ndarray,
    target_y: np.ndarray,
    target_x: np.ndarray,
) -> np.ndarray:
    """Nearest of the candidates ``start`` to ``stop`` of each point, int32 (P,)."""
    nearest = candidates.take(start)
    least = _distance(centers, nearest, target_y, target_x)
    start = start + 1
    points = np.arange(len(start))
    while True:
        more = (start < stop).nonzero()[0]
        if len(more) == 0:
            return nearest
        if len(more) < len(start):
            points, start, stop = points.take(more), start.take(more), stop.take(more)
            target_y, target_x = target_y.take(more), target_x.take(more)
        candidate = candidates.take(start)
        distance = _distance(centers, candidate, target_y, target_x)
        nearer = (distance < least.take(points)).nonzero()[0]
        least[points.take(nearer)] = distance.take(nearer)
        nearest[points.take(nearer)] = candidate.take(nearer)
        start = start + 1


def _distance(centers: np.ndarray, index: np.ndarray, target_y: np.ndarray, target_x: np.ndarray) -> np.ndarray:
    dy, dx = centers[:, 0].take(index) - target_y, centers[:, 1].take(index) - target_x
    # The root looks superfluous, but rounding it makes ties, and ties are broken as Detectron2 breaks them.
    return np.sqrt(dy * dy + dx * dx)
