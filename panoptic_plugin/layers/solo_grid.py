"""Which cells of SOLO's grids stand for an object (https://arxiv.org/abs/1912.04488, section 3.3.1).

Shapes: T objects, L levels. Coordinates are (y, x) in pixels of the network input; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def levels_of(sizes: torch.Tensor, scale_ranges: Sequence[Sequence[float]]) -> torch.Tensor:
    """The levels that an object is learned at: those whose range holds the square root of its box's area.

    Args:
        sizes: (T, 2), of the objects' boxes.
        scale_ranges: L pairs (lowest, highest), both included; they may overlap.

    Returns:
        Bool (L, T).
    """
    scale = sizes.double().prod(dim=1).sqrt()
    ranges = torch.tensor(scale_ranges, dtype=torch.float64, device=sizes.device).view(-1, 2, 1)
    return (scale >= ranges[:, 0]) & (scale <= ranges[:, 1])


def center_cells(
    centers_yx: torch.Tensor, sizes: torch.Tensor, *, padded_size: tuple[int, int], num_grid: int, sigma: float = 0.2
) -> torch.Tensor:
    """The 1 to 9 cells of an object in a grid: those that the middle of its box touches, next to its center's cell.

    The grid covers the padded image. The cell of a coordinate is found exactly; where published codes divide by a
    rounded 1 / ``num_grid``, centers on a line between two cells can fall into the other one.

    Args:
        centers_yx: float64 (T, 2), centers of mass, in pixel indices.
        sizes: (T, 2), of the boxes.
        padded_size: (H, W) of the network input.
        num_grid: cells in each direction.
        sigma: share of the box's height and width that is its middle.

    Returns:
        Int64 (T, 4): first row, last row, first column, last column.
    """
    padded = torch.tensor(padded_size, dtype=torch.float64, device=centers_yx.device)
    half = 0.5 * sigma * sizes.double()
    cell, low, high = ((point * num_grid / padded).floor().long() for point in
                       (centers_yx, centers_yx - half, centers_yx + half))  # fmt: skip
    first = torch.maximum(low.clamp(min=0), cell - 1)
    last = torch.minimum(high.clamp(max=num_grid - 1), cell + 1)
    return torch.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], dim=1)
