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
    peaks = _peaks(values, max(threshold, 0.0), nms_kernel)
    centers_yx = _one_of_each_plateau(peaks, values)
    scores = values[centers_yx[:, 0], centers_yx[:, 1]]
    if top_k is None or scores.numel() <= top_k:
        return centers_yx, scores
    kept = torch.sort(scores, descending=True, stable=True).indices[:top_k].sort().values
    return centers_yx[kept], scores[kept]


def _peaks(values: torch.Tensor, threshold: float, nms_kernel: int) -> torch.Tensor:
    """Pixels above the threshold that are the highest of their window: int64 (P, 2) in row-major order."""
    pixels = pixels_of(values > threshold)
    highest = _highest_of_window(values, nms_kernel).reshape(-1).index_select(0, pixels)
    pixels = pixels[values.reshape(-1).index_select(0, pixels) == highest]
    return torch.stack([pixels // values.shape[1], pixels % values.shape[1]], dim=1)


def _highest_of_window(values: torch.Tensor, nms_kernel: int) -> torch.Tensor:
    """float (H, W): maximum of the window around each pixel."""
    before, after = (nms_kernel - 1) // 2, nms_kernel // 2
    if values.device.type == "cpu":
        window = np.ones((nms_kernel, nms_kernel), dtype=np.uint8)
        return torch.from_numpy(cv2.dilate(values.numpy(), window, anchor=(before, before)))
    padded = F.pad(values[None, None], (before, after, before, after), value=-torch.inf)
    # The maximum over a square is the maximum over columns of the maximum over rows.
    rows = F.max_pool2d(padded, kernel_size=(1, nms_kernel), stride=1)
    return F.max_pool2d(rows, kernel_size=(nms_kernel, 1), stride=1)[0, 0]


def _one_of_each_plateau(peaks_yx: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Of peaks that touch (8 neighbours) and are equal, keep the one nearest their centroid, the first of several.

    Args:
        peaks_yx: int64 (P, 2) in row-major order.
        values: float (H, W) heatmap.

    Returns:
        int64 (K, 2), K <= P, in row-major order.
    """
    if len(peaks_yx) == 0:
        return peaks_yx
    first, second = _touching_equal_pairs(peaks_yx, values)
    if first.numel() == 0:
        return peaks_yx
    kept = _nearest_to_centroid(peaks_yx.cpu().numpy(), first.cpu().numpy(), second.cpu().numpy())
    return peaks_yx[torch.from_numpy(kept).to(peaks_yx.device)]


def _touching_equal_pairs(peaks_yx: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices into the peaks of all adjacent pairs with equal values, each pair once."""
    # A border of one pixel, so that a neighbour outside the image is simply not a peak.
    width = values.shape[1] + 2
    y, x = peaks_yx[:, 0], peaks_yx[:, 1]
    positions = (y + 1) * width + x + 1
    peak_values = values[y, x]
    first, second = [], []
    for dy, dx in _HALF_NEIGHBOURHOOD_YX:
        wanted = positions + dy * width + dx
        neighbour = torch.searchsorted(positions, wanted).clamp(max=len(positions) - 1)
        pair = (positions[neighbour] == wanted) & (peak_values == peak_values[neighbour])
        first.append(pair.nonzero()[:, 0])
        second.append(neighbour[pair])
    return torch.cat(first), torch.cat(second)


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
