"""Instance centers from a heatmap (Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.3).

Coordinates are (y, x) in heatmap pixels. Differs from Detectron2's ``find_instance_center`` in three points: a plateau
of equal values gives one center instead of one for each pixel, exactly ``top_k`` centers are kept instead of fewer,
and any kernel and image size works.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.pixels import pixels_of

# One of each pair of opposite neighbours is enough to find all adjacent pairs.
_HALF_NEIGHBOURHOOD_YX = ((0, 1), (1, -1), (1, 0), (1, 1))


def find_centers(
    heatmap: torch.Tensor, threshold: float, nms_kernel: int, top_k: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local maxima of a heatmap, in row-major order.

    Args:
        heatmap: float (1, H, W).
        threshold: only values above it (and above 0) can be centers.
        nms_kernel: side of the window in which a center must be the highest value. An even window reaches one pixel
            further down and right.
        top_k: the highest that many are kept, of equal ones the first in row-major order; None keeps all.

    Returns:
        int64 (K, 2) centers (y, x) and float (K,) their heatmap values.
    """
    values = heatmap[0].detach()
    positions = pixels_of(_is_peak(values, max(threshold, 0.0), nms_kernel))
    heights = values.reshape(-1).index_select(0, positions)
    # From here on there are a few numbers only: one transfer from the device, one back.
    position, height = positions.cpu().numpy(), heights.cpu().numpy()
    kept = _one_of_each_plateau(np.stack(np.divmod(position, values.shape[1])), height, values.shape[1])
    if top_k is not None and len(kept) > top_k:
        kept = np.sort(kept[np.argsort(-height[kept], kind="stable")[:top_k]])
    chosen = torch.from_numpy(kept).to(values.device)
    positions = positions.index_select(0, chosen)
    centers_yx = torch.stack([positions // values.shape[1], positions % values.shape[1]], dim=1)
    return centers_yx, heights.index_select(0, chosen)


def _is_peak(values: torch.Tensor, threshold: float, nms_kernel: int) -> torch.Tensor:
    """bool (H, W): above the threshold and the highest of the window."""
    before, after = (nms_kernel - 1) // 2, nms_kernel // 2
    if device.is_cpu(values):
        return torch.from_numpy(_is_peak_of_rows(values.numpy(), threshold, nms_kernel))
    padded = F.pad(values[None, None], (before, after, before, after), value=-torch.inf)
    # The maximum over a square is the maximum over columns of the maximum over rows.
    rows = F.max_pool2d(padded, kernel_size=(1, nms_kernel), stride=1)
    highest = F.max_pool2d(rows, kernel_size=(nms_kernel, 1), stride=1)[0, 0]
    return (values == highest) & (values > threshold)


def _is_peak_of_rows(values: np.ndarray, threshold: float, nms_kernel: int) -> np.ndarray:
    """As :func:`_is_peak`, some rows at a time, which stay in the cache."""
    before, after = (nms_kernel - 1) // 2, nms_kernel // 2
    window, rows = np.ones((nms_kernel, nms_kernel), dtype=np.uint8), 16 * nms_kernel
    peaks = np.empty(values.shape, dtype=bool)
    for top in range(0, len(values), rows):
        part, first = values[top : top + rows], max(top - before, 0)
        dilated = cv2.dilate(values[first : top + rows + after], window, anchor=(before, before))[top - first :]
        np.equal(part, dilated[: len(part)], out=peaks[top : top + rows])
        peaks[top : top + rows] &= part > threshold
    return peaks


def _one_of_each_plateau(peaks_yx: np.ndarray, heights: np.ndarray, width: int) -> np.ndarray:
    """Of peaks that touch (8 neighbours) and are equal, keep the one nearest their centroid, the first of several.

    Args:
        peaks_yx: int64 (2, P) in row-major order.
        heights: float (P,), the heatmap there.
        width: of the heatmap.

    Returns:
        int64 (K,), ascending, which peaks are kept.
    """
    first, second = _touching_equal_pairs(peaks_yx, heights, width)
    if len(first) == 0:
        return np.arange(len(heights))
    return _nearest_to_centroid(peaks_yx.T, first, second)


def _touching_equal_pairs(peaks_yx: np.ndarray, heights: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the peaks of all adjacent pairs with equal values, each pair once."""
    # A border of one pixel, so that a neighbour outside the image is simply not a peak.
    positions = (peaks_yx[0] + 1) * (width + 2) + peaks_yx[1] + 1
    first, second = [], []
    for dy, dx in _HALF_NEIGHBOURHOOD_YX:
        wanted = positions + dy * (width + 2) + dx
        neighbour = np.searchsorted(positions, wanted)
        inside = (neighbour < len(positions)).nonzero()[0]
        neighbour = neighbour[inside]
        pair = (positions[neighbour] == wanted[inside]) & (heights[neighbour] == heights[inside])
        first.append(inside[pair])
        second.append(neighbour[pair])
    return np.concatenate(first), np.concatenate(second)


def _nearest_to_centroid(peaks_yx: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Indices, ascending, of one peak for each connected group; ``first``/``second`` are its adjacent pairs."""
    num_peaks = len(peaks_yx)
    links = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(num_peaks, num_peaks))
    num_groups, group = connected_components(links, directed=False)
    size = np.bincount(group, minlength=num_groups)
    centroid_yx = np.stack([np.bincount(group, peaks_yx[:, axis]) / size for axis in (0, 1)], axis=1)
    squared_distance = ((peaks_yx - centroid_yx[group]) ** 2).sum(axis=1)
    by_group = np.lexsort((np.arange(num_peaks), squared_distance, group))
    return np.sort(by_group[np.cumsum(size) - size])
