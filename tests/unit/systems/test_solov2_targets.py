"""Grid cells and masks that the SOLOv2 head learns; cell sets are worked out by hand."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_plugin.layers.solo_grid import center_cells, levels_of
from panoptic_plugin.systems.efficientps.solov2_targets import (
    SOLOv2Targets,
    object_geometry,
    quarter_masks,
    solov2_targets,
)

COCO_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
COCO_GRIDS = (40, 36, 24, 16, 12)


def _targets(index: torch.Tensor, classes: list[int], grids=(8,), ranges=((1, 2048),)) -> SOLOv2Targets:
    return solov2_targets(
        index, torch.tensor(classes, dtype=torch.int64), num_classes=9, num_grids=grids, scale_ranges=ranges
    )


def _cells(targets: SOLOv2Targets, grid: int, number: int = 0) -> set[tuple[int, int]]:
    return {divmod(int(cell), grid) for cell in targets.cells[targets.objects == number]}


def _square(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    index = torch.zeros(size, dtype=torch.int16)
    for number, (top, bottom, left, right) in enumerate(boxes, start=1):
        index[top:bottom, left:right] = number
    return index


def test_centered_square_takes_the_nine_cells_around_its_center():
    # Center (31.5, 31.5) is in cell 3 of 8 (8 pixels each); the middle fifth of 60 pixels, 25.5 to 37.5, is in 3 and 4.
    targets = _targets(_square((64, 64), (2, 62, 2, 62)), [5])
    assert _cells(targets, 8) == {(3, 3), (3, 4), (4, 3), (4, 4)}
    assert (targets.categories == 5).sum() == 4
    assert (targets.categories == 9).sum() == 60


def test_region_is_cut_to_the_neighbours_of_the_center_cell():
    # With cells of 2 pixels the middle, 25.5 to 37.5, would be cells 12 to 18; the center's is 15.
    targets = _targets(_square((64, 64), (2, 62, 2, 62)), [5], grids=(32,))
    assert _cells(targets, 32) == {(row, column) for row in (14, 15, 16) for column in (14, 15, 16)}


def test_object_in_the_corner_stays_inside_the_grid():
    targets = _targets(_square((64, 64), (0, 3, 0, 3)), [0])
    assert _cells(targets, 8) == {(0, 0)}
    targets = _targets(_square((64, 64), (61, 64, 61, 64)), [0])
    assert _cells(targets, 8) == {(7, 7)}


def test_object_of_one_pixel_has_one_cell():
    index = torch.zeros(64, 64, dtype=torch.int16)
    index[10, 50] = 1
    targets = _targets(index, [3])
    assert _cells(targets, 8) == {(1, 6)}


def test_rows_and_columns_follow_the_padded_height_and_width():
    # 64 x 128: cells are 8 pixels high and 16 wide. Center (19.5, 99.5); the middle of 8 x 8 is +-0.8.
    targets = _targets(_square((64, 128), (16, 24, 96, 104)), [1])
    assert _cells(targets, 8) == {(2, 6)}


def test_object_is_learned_at_each_level_whose_range_holds_it():
    # 64 x 64 pixels are in (1, 96) and (48, 192), not in the coarser ones.
    targets = _targets(_square((128, 256), (32, 96, 64, 128)), [2], grids=COCO_GRIDS, ranges=COCO_RANGES)
    first = {divmod(int(cell), 40) for cell in targets.cells if cell < 1600}
    # Center (63.5, 95.5) is in row 19, column 14 of 40; its middle, +-6.4, covers rows 17 to 21, columns 13 to 15.
    assert first == {(row, column) for row in (18, 19, 20) for column in (13, 14, 15)}
    second = {divmod(int(cell) - 1600, 36) for cell in targets.cells if cell >= 1600}
    # Of 36: row 17 (16 to 19), column 13 (12 to 14).
    assert second == {(row, column) for row in (16, 17, 18) for column in (12, 13, 14)}
    assert len(targets.categories) == 3872


def test_bounds_of_a_range_are_included():
    sizes = torch.tensor([[96, 96], [48, 48], [47, 48]])
    assert levels_of(sizes, COCO_RANGES[:3]).tolist() == [[True, True, True], [True, True, False], [True, False, False]]


def test_object_outside_of_all_ranges_has_no_cell_and_keeps_its_mask():
    targets = _targets(_square((64, 64), (0, 2, 0, 2)), [1], ranges=((8, 2048),))
    assert len(targets.cells) == 0
    assert (targets.categories == 9).all()
    assert targets.masks.shape == (1, 16, 16)


def test_object_without_pixels_has_no_cell_and_shifts_no_other():
    index = _square((64, 64), (0, 0, 0, 0), (2, 62, 2, 62))
    targets = _targets(index, [4, 6])
    assert targets.objects.unique().tolist() == [1]
    assert set(targets.categories.tolist()) == {6, 9}


def test_image_without_objects():
    targets = _targets(torch.zeros(64, 64, dtype=torch.int16), [])
    assert (targets.categories == 9).all()
    assert targets.cells.shape == (0,)
    assert targets.masks.shape == (0, 16, 16)


def test_later_object_takes_the_category_of_a_shared_cell_and_both_keep_their_masks():
    # A frame around a block: both have their center of mass in the middle.
    index = _square((64, 64), (8, 56, 8, 56), (24, 40, 24, 40))
    targets = _targets(index, [1, 2], grids=(4,))
    # Both centers (31.5, 31.5) lie in cell (1, 1); the frame's middle, +-4.8, and the block's, +-1.6, reach (2, 2).
    shared = {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert _cells(targets, 4, 0) == _cells(targets, 4, 1) == shared
    assert targets.categories.view(4, 4)[1:3, 1:3].tolist() == [[2, 2], [2, 2]]
    assert len(targets.cells) == 8


def test_center_is_the_center_of_mass_and_size_that_of_the_box():
    index = torch.zeros(16, 32, dtype=torch.int16)
    index[2:4, 5:25] = 1
    index[4:10, 5] = 1
    centers, sizes, areas = object_geometry(index, 2)
    ys, xs = (index == 1).nonzero().double().mean(dim=0).tolist()
    assert centers[0].tolist() == [ys, xs]
    assert sizes.tolist() == [[8, 20], [0, 0]]
    assert areas.tolist() == [46, 0]


def test_center_on_a_line_between_cells_belongs_to_the_latter():
    # 3 * 8 / 24 is 1 exactly; 1 / 8 in float32 would be exact too, 1 / 12 is not.
    for grid in (8, 12, 24, 40):
        lines = torch.arange(grid, dtype=torch.float64) * (480 / grid)
        centers = torch.stack([lines, lines], dim=1)
        cells = center_cells(centers, torch.zeros(grid, 2), padded_size=(480, 480), num_grid=grid)
        assert cells[:, 0].tolist() == list(range(grid))


def test_masks_are_those_of_bilinear_interpolation_to_a_quarter():
    index = torch.randint(0, 4, (64, 96), generator=torch.Generator().manual_seed(0))
    whole = torch.stack([index == number for number in (1, 2, 3)]).float()
    expected = F.interpolate(whole[None], scale_factor=0.25, mode="bilinear")[0] >= 0.5
    assert torch.equal(quarter_masks(index, 3), expected)
