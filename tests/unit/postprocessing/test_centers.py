from __future__ import annotations

import pytest
import torch

from panoptic_plugin.postprocessing.centers import find_centers


def heatmap_with(values: dict[tuple[int, int], float], size=(12, 12)) -> torch.Tensor:
    heatmap = torch.zeros(1, *size)
    for (y, x), value in values.items():
        heatmap[0, y, x] = value
    return heatmap


def test_only_values_above_the_threshold():
    heatmap = heatmap_with({(2, 2): 0.1, (8, 8): 0.11})
    centers, scores = find_centers(heatmap, 0.1, 3, 10)
    assert centers.tolist() == [[8, 8]]
    assert scores.tolist() == pytest.approx([0.11])


def test_none_gives_empty_tensors():
    centers, scores = find_centers(torch.zeros(1, 5, 5), 0.1, 7, 10)
    assert centers.shape == (0, 2) and centers.dtype == torch.int64
    assert scores.shape == (0,)


def test_lower_values_of_the_window_are_suppressed():
    heatmap = heatmap_with({(5, 5): 0.9, (5, 8): 0.8, (5, 9): 0.7})
    assert find_centers(heatmap, 0.1, 7, 10)[0].tolist() == [[5, 5]]
    assert find_centers(heatmap, 0.1, 5, 10)[0].tolist() == [[5, 5], [5, 8]]


def test_the_member_nearest_the_centroid_stands_for_a_plateau():
    heatmap = heatmap_with({(3, x): 0.5 for x in range(2, 9)})
    assert find_centers(heatmap, 0.1, 3, 10)[0].tolist() == [[3, 5]]


def test_plateaus_that_only_touch_at_a_corner_are_one():
    heatmap = heatmap_with({(3, 3): 0.5, (4, 4): 0.5, (5, 5): 0.5})
    assert find_centers(heatmap, 0.1, 3, 10)[0].tolist() == [[4, 4]]


def test_touching_peaks_of_different_values_stay_apart():
    heatmap = heatmap_with({(3, 3): 0.5, (3, 4): 0.6})
    assert find_centers(heatmap, 0.1, 1, 10)[0].tolist() == [[3, 3], [3, 4]]


def test_equal_peaks_that_do_not_touch_stay_apart():
    heatmap = heatmap_with({(3, 3): 0.5, (3, 5): 0.5})
    assert find_centers(heatmap, 0.1, 7, 10)[0].tolist() == [[3, 3], [3, 5]]


def test_a_constant_map_has_one_center():
    assert find_centers(torch.full((1, 5, 7), 0.5), 0.1, 7, 10)[0].tolist() == [[2, 3]]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("nms_kernel", [1, 2, 7, 8])
def test_tiny_maps(size, nms_kernel):
    heatmap = torch.zeros(1, *size)
    heatmap[0, -1, -1] = 0.4
    assert find_centers(heatmap, 0.1, nms_kernel, 200)[0].tolist() == [[size[0] - 1, size[1] - 1]]
