"""What the SOLOv2 head learns of an image: the category and the mask of grid cells.

Shapes: T objects, L levels of S x S cells, which are numbered level by level and row by row: cells in all; H x W pixels
of the padded network input, both multiples of 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from panoptic_plugin.layers.solo_grid import center_cells, levels_of


@dataclass(frozen=True)
class SOLOv2Targets:
    """The targets of one image.

    Attributes:
        categories: int64 (cells,), the class of a cell; the number of classes is background.
        cells: int64 (P,), the cells that learn a mask; a cell of two objects is there twice.
        objects: int64 (P,), the object whose mask it is.
        masks: bool (T, H / 4, W / 4).
    """

    categories: torch.Tensor
    cells: torch.Tensor
    objects: torch.Tensor
    masks: torch.Tensor


def solov2_targets(
    instance_index: torch.Tensor,
    classes: torch.Tensor,
    *,
    num_classes: int,
    num_grids: Sequence[int],
    scale_ranges: Sequence[Sequence[float]],
    sigma: float = 0.2,
) -> SOLOv2Targets:
    """The targets of one image (https://arxiv.org/abs/2003.10152).

    Args:
        instance_index: integers (H, W), t + 1 on object t, 0 elsewhere.
        classes: int64 (T,), 0 to ``num_classes`` - 1.
        num_classes: thing classes.
        num_grids: cells in each direction, a level.
        scale_ranges: see :func:`~panoptic_plugin.layers.solo_grid.levels_of`, a level.
        sigma: see :func:`~panoptic_plugin.layers.solo_grid.center_cells`.

    Objects without pixels have no cells. Where two objects share a cell, its category is that of the later one.
    """
    centers, sizes, areas = object_geometry(instance_index, len(classes))
    used = levels_of(sizes, scale_ranges) & (areas > 0)
    categories, cells, objects = [], [], []
    first = 0
    for level, num_grid in enumerate(num_grids):
        covered = _covered(
            center_cells(centers, sizes, padded_size=tuple(instance_index.shape), num_grid=num_grid, sigma=sigma),
            num_grid,
        )
        covered &= used[level, :, None]
        categories.append(_latest(covered, classes, num_classes))
        object_of, cell = covered.nonzero(as_tuple=True)
        cells.append(cell + first)
        objects.append(object_of)
        first += num_grid**2
    return SOLOv2Targets(
        categories=torch.cat(categories),
        cells=torch.cat(cells),
        objects=torch.cat(objects),
        masks=quarter_masks(instance_index, len(classes)),
    )


def object_geometry(instance_index: torch.Tensor, num_objects: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centers of mass float64 (T, 2), boxes' (height, width) float64 (T, 2), and areas int64 (T,); 0 without a pixel.

    Args:
        instance_index: integers (H, W), t + 1 on object t, 0 elsewhere.
        num_objects: T.
    """
    index = instance_index.long()
    centers, sizes = [], []
    areas = torch.zeros(num_objects, dtype=torch.int64, device=index.device)
    for length, lines in ((index.shape[0], index), (index.shape[1], index.T)):
        # Pixels of each object on each line; sums of integers, exact in any order.
        position = torch.arange(length, device=index.device)
        flat = (lines * length + position[:, None]).flatten()
        counts = torch.bincount(flat, minlength=(num_objects + 1) * length).view(-1, length)[1:]
        areas = counts.sum(dim=1)
        centers.append((counts * position).sum(dim=1).double() / areas.clamp(min=1))
        present = counts > 0
        last = length - 1 - present.flip(1).int().argmax(dim=1)
        sizes.append(torch.where(areas > 0, last - present.int().argmax(dim=1) + 1, 0).double())
    return torch.stack(centers, dim=1), torch.stack(sizes, dim=1), areas


def quarter_masks(instance_index: torch.Tensor, num_objects: int) -> torch.Tensor:
    """The objects' masks at stride 4, bool (T, H / 4, W / 4): where at least two of a block's middle 2 x 2 pixels are.

    This is where bilinear interpolation of a mask of 0 and 1 to a quarter of its size gives 0.5 or more.
    """
    numbers = torch.arange(1, num_objects + 1, device=instance_index.device).view(-1, 1, 1)
    hits = torch.zeros((), dtype=torch.int64, device=instance_index.device)
    for y in (1, 2):
        for x in (1, 2):
            hits = hits + (instance_index[y::4, x::4] == numbers).int()
    return hits >= 2


def _covered(borders: torch.Tensor, num_grid: int) -> torch.Tensor:
    # (T, 4) first row, last row, first column, last column -> bool (T, S * S)
    position = torch.arange(num_grid, device=borders.device)
    rows = (position >= borders[:, 0:1]) & (position <= borders[:, 1:2])
    columns = (position >= borders[:, 2:3]) & (position <= borders[:, 3:4])
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


def _latest(covered: torch.Tensor, classes: torch.Tensor, background: int) -> torch.Tensor:
    # bool (T, cells) -> int64 (cells,)
    numbers = torch.arange(1, len(classes) + 1, device=covered.device)
    last = (covered * numbers[:, None]).amax(dim=0) if len(classes) else covered.sum(dim=0)
    return torch.cat([classes.new_tensor([background]), classes])[last]
