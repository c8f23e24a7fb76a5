"""Nearest center of many points on a CPU, exactly, in a time that hardly grows with the number of centers.

The plane is cut into square cells. Most cells lie so far from the border between two centers that one center is the
nearest of all their points; a point in one of those costs a look-up. For the points of the other cells only the few
centers that can be the nearest somewhere in the cell are compared. The cells are found from coarse to fine: one that
has a single candidate is not cut further, and the quarters of another one have only its candidates.

Shapes: K centers, P points, M cells, N candidates of all of them, one cell after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

COARSEST, FINEST = 256, 16  # sides of cells, in pixels
MARGIN = 128  # pixels around image and centers that have cells; points further out are compared with all centers
BORDER = 0.25  # pixels around a cell that belong to it too; more than a coordinate below 2^20 is rounded by
LONGEST = (1 << 15) - 2  # side of a picture that OpenCV warps
# Squared float32 distances this close, relatively, may compare either way, or be equal once their root is rounded
# (worst case 8e-7).
ROUNDING = 1e-5


class NearestCells(NamedTuple):
    """What to look up for a point.

    Attributes:
        corner_yx: pixel coordinates of the corner of the first cell.
        owner: float32 (rows, columns): the center that is the nearest in all of the cell, or ``-1 - m`` for several.
        start: int32 (M + 1,); the candidates of m are ``candidates[start[m]:start[m + 1]]``.
        candidates: int32 (N,), ascending for each m.
        candidate_y: float32 (N,), where they are.
        candidate_x: float32 (N,).
    """

    corner_yx: np.ndarray
    owner: np.ndarray
    start: np.ndarray
    candidates: np.ndarray
    candidate_y: np.ndarray
    candidate_x: np.ndarray

    def look_up(self, target_y: np.ndarray, target_x: np.ndarray) -> np.ndarray:
        """Entry of ``owner``, float32 (h, w), for points outside and those that are no number one of the border.

        Args:
            target_y: float32 (h, w), each side at most :data:`LONGEST`.
            target_x: float32 (h, w).
        """
        row, column = target_y * np.float32(1 / FINEST), target_x * np.float32(1 / FINEST)
        row -= self.corner_yx[0] / FINEST + np.float32(0.5)
        column -= self.corner_yx[1] / FINEST + np.float32(0.5)
        # To warp the picture of owners is several times as fast as to round, to clip and to index.
        return cv2.remap(self.owner, column, row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)

    def compare(self, cell: np.ndarray, target_y: np.ndarray, target_x: np.ndarray) -> np.ndarray:
        """Nearest of the candidates of a cell in float32 arithmetic, the first of several.

        Args:
            cell: int (P,), m for each point. Every cell has two candidates at least.
            target_y: float32 (P,).
            target_x: float32 (P,).

        Returns:
            int32 (P,), 0 to K - 1.
        """
        index, stop = _take(self.start, cell), _take(self.start, cell + 1)
        nearest, least = index, self._distance(index, target_y, target_x)
        result, points = np.empty_like(index), np.arange(len(cell))
        while len(points) > 0:
            index = index + 1
            distance = self._distance(index, target_y, target_x)
            nearest, least = np.where(distance < least, index, nearest), np.minimum(distance, least)
            result[points] = nearest
            more = np.flatnonzero(index + 1 < stop)
            points, index, stop, nearest = (_take(part, more) for part in (points, index, stop, nearest))
            least, target_y, target_x = (_take(part, more) for part in (least, target_y, target_x))
        return _take(self.candidates, result)

    def _distance(self, index: np.ndarray, target_y: np.ndarray, target_x: np.ndarray) -> np.ndarray:
        dy, dx = _take(self.candidate_y, index), _take(self.candidate_x, index)
        with np.errstate(over="ignore", invalid="ignore"):  # of points at infinity, or nearly so
            dy -= target_y
            dx -= target_x
            dy *= dy
            dx *= dx
            dy += dx
        # The root looks superfluous, but rounding it makes ties, and ties are broken as Detectron2 breaks them.
        return np.sqrt(dy, out=dy)


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``values[index]``; that no index is checked, but clipped, saves half of the time."""
    return values.take(index, mode="clip")


def make_cells(centers: np.ndarray, size: tuple[int, int]) -> NearestCells:
    """Cells of the image and what is around it.

    Args:
        centers: float32 (K, 2) centers (y, x), K > 0.
        size: (height, width) of the image. Points may lie anywhere; those far outside take longer.
    """
    center_y, center_x = np.ascontiguousarray(centers.T)
    corner_yx = np.minimum(np.floor(centers.min(axis=0)), 0) - MARGIN
    extent = np.maximum(centers.max(axis=0), size) + MARGIN - corner_yx
    rows, columns = np.ceil(extent / COARSEST).astype(int).tolist()
    row, column = np.divmod(np.arange(rows * columns), columns)
    counts = np.full(rows * columns, len(centers))
    candidates = np.tile(np.arange(len(centers), dtype=np.int32), rows * columns)
    owner, side = np.empty((rows, columns), dtype=np.float32), COARSEST
    while True:
        middle_y, middle_x = corner_yx[0] + (row + 0.5) * side, corner_yx[1] + (column + 0.5) * side
        to_y = center_y[candidates] - middle_y.astype(np.float32).repeat(counts)
        to_x = center_x[candidates] - middle_x.astype(np.float32).repeat(counts)
        possible = _possible(to_y, to_x, counts, side)
        candidates, counts = candidates[possible], np.add.reduceat(possible, _starts(counts), dtype=np.int64)
        owner[row, column] = candidates[_starts(counts)]
        several = counts > 1
        candidates, counts = candidates[several.repeat(counts)], counts[several]
        row, column = row[several], column[several]
        if side == FINEST:
            break
        row, column = (2 * row + _QUARTER // 2).ravel(), (2 * column + _QUARTER % 2).ravel()
        candidates, counts = np.tile(candidates, 4), np.tile(counts, 4)
        owner, side = owner.repeat(2, axis=0).repeat(2, axis=1), side // 2
    owner[row, column] = -2 - np.arange(len(row))
    if len(centers) > 1:
        # The first of the cells with several candidates is all that lies outside, and is found at the border.
        owner[[0, -1]] = owner[:, [0, -1]] = -1
    candidates = np.append(np.arange(len(centers), dtype=np.int32), candidates)
    start = np.append(0, np.append(len(centers), counts).cumsum()).astype(np.int32)
    position = center_y.take(candidates), center_x.take(candidates)
    return NearestCells(corner_yx.astype(np.float32), owner, start, candidates, *position)


_QUARTER = np.arange(4)[:, None]


def _starts(counts: np.ndarray) -> np.ndarray:
    return counts.cumsum() - counts


def _possible(to_y: np.ndarray, to_x: np.ndarray, counts: np.ndarray, side: int) -> np.ndarray:
    """bool (N,): the candidate may be the nearest of some point of its cell.

    Between two centers the difference of the squared distances is linear in the point. So over a cell it changes from
    its value in the middle by at most the side of the cell times the distance of the centers in the city-block metric.
    A little more on every side makes it no matter into which of two cells a point on their border is rounded.

    Args:
        to_y: float32 (N,) from the middle of the cell to the candidate.
        to_x: float32 (N,).
        counts: int64 (M,) candidates of each cell, at least 1.
        side: of the cells.
    """
    width = side + 2 * BORDER
    squared = to_y * to_y + to_x * to_x
    least = np.minimum.reduceat(squared, _starts(counts)).repeat(counts)
    # The last of the candidates nearest to the middle of each cell.
    nearest = np.where(squared == least, np.arange(len(squared)), 0)
    nearest = np.maximum.reduceat(nearest, _starts(counts)).repeat(counts)
    change = width * (np.abs(to_y - to_y[nearest]) + np.abs(to_x - to_x[nearest]))
    return squared <= least + change + ROUNDING * (least + width**2)
