"""Instance centers from a heatmap (Panoptic-DeepLab, https://arxiv.org/abs/1911.10194, section 3.3).

Coordinates are (y, x) in heatmap pixels. Differs from Detectron2's ``find_instance_center`` in three points: a plateau
of equal values gives one center instead of one for each pixel, exactly ``top_k`` centers are kept instead of fewer,
and any kernel and image size works.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

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
    values = heatmap[0]
    peaks = _is_peak(values, threshold, nms_kernel)
    centers_yx = _one_of_each_plateau(peaks.nonzero(), values)
    scores = values[centers_yx[:, 0], centers_yx[:, 1]]
    if top_k is None or scores.numel() <= top_k:
        return centers_yx, scores
    kept = torch.sort(scores, descending=True, stable=True).indices[:top_k].sort().values
    return centers_yx[kept], scores[kept]


def _is_peak(values: torch.Tensor, threshold: float, nms_kernel: int) -> torch.Tensor:
    """bool (H, W): above the threshold and the highest of its window."""
    before, after = (nms_kernel - 1) // 2, nms_kernel // 2
    padded = F.pad(values[None, None], (before, after, before, after), value=-torch.inf)
    # The maximum over a square is the maximum over columns of the maximum over rows.
    rows = F.max_pool2d(padded, kernel_size=(1, nms_kernel), stride=1)
    highest = F.max_pool2d(rows, kernel_size=(nms_kernel, 1), stride=1)[0, 0]
    return (values == highest) & (values > max(threshold, 0.0))


def _one_of_each_plateau(peaks_yx: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Of peaks that touch (8 neighbours) and are equal, keep the one nearest their centroid, the first of several.

    Args:
        peaks_yx: int64 (P, 2) in row-major order.
        values: float (H, W) heatmap.

    Returns:
        int64 (K, 2), K <= P, in row-major order.
    """
    first, second = _touching_equal_pairs(peaks_yx, values)
    if first.numel() == 0:
        return peaks_yx
    kept = _nearest_to_centroid(peaks_yx.cpu().numpy(), first.cpu().numpy(), second.cpu().numpy())
    return peaks_yx[torch.from_numpy(kept).to(peaks_yx.device)]


def _touching_equal_pairs(peaks_yx: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices into the peaks of all adjacent pairs with equal values, each pair once."""
    height, width = values.shape
    # A border of one pixel, so that a neighbour outside the image is simply not a peak.
    index_of = torch.full((height + 2, width + 2), -1, dtype=torch.int64, device=values.device)
    y, x = peaks_yx[:, 0], peaks_yx[:, 1]
    index_of[y + 1, x + 1] = torch.arange(len(peaks_yx), device=values.device)
    peak_values = values[y, x]
    first, second = [], []
    for dy, dx in _HALF_NEIGHBOURHOOD_YX:
        neighbour = index_of[y + 1 + dy, x + 1 + dx]
        pair = (neighbour >= 0) & (peak_values == peak_values[neighbour.clamp(min=0)])
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
