"""The center of the lowest energy for pixels whose nearest center is of another class than they are.

``E_k(p) = |p + O(p) - center_k|^2 / (2 sigma^2) - weight * log P(class of k at p)``. No center of the class of the
nearest one can have a lower energy than that, and none can gain more by its class than the most likely class of the
pixel would. So only centers of other classes within a radius compete, which is known for each pixel; for those alone a
probability is looked up.

Shapes: K centers, M pixels, N pairs of a pixel and a center.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from panoptic_plugin.postprocessing import device
from panoptic_plugin.postprocessing.pixel_scores import SMALLEST_PROBABILITY, PixelScores

PIXELS_AT_A_TIME = 4096
DISTANCES_AT_A_TIME = 1 << 22  # on a GPU


def cheapest_centers(
    centers: torch.Tensor,
    categories: torch.Tensor,
    targets_yx: tuple[torch.Tensor, torch.Tensor],
    nearest: torch.Tensor,
    index: torch.Tensor,
    scores: PixelScores,
    weight: float,
    sigma: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Center of the lowest energy; the nearest one where none is lower.

    Args:
        centers: float32 (K, 2), (y, x).
        categories: int64 (K,), the class of each center, -1 for one that takes no pixel.
        targets_yx: float32 (M,) each, where the offsets of the pixels point to.
        nearest: int64 (M,), the nearest center of each.
        index: int64 (M,), places of the pixels in ``scores``.
        scores: probabilities.
        weight: of the class term, at least 0.
        sigma: in pixels.

    Returns:
        int64 (M,) 0 to K - 1, and float64 (M,) the energy.
    """
    cheapest, energies = torch.empty_like(nearest), torch.empty(len(nearest), dtype=torch.float64, device=index.device)
    find = _find_near if device.is_cpu(centers) else _find_all
    step = PIXELS_AT_A_TIME if device.is_cpu(centers) else max(1, DISTANCES_AT_A_TIME // len(centers))
    for start in range(0, len(index), step):
        some = slice(start, start + step)
        y, x, near, places = targets_yx[0][some], targets_yx[1][some], nearest[some], index[some]
        log_nearest = _clamped(scores.log_probability(categories[near], places))
        squared = (centers[near, 0] - y) ** 2 + (centers[near, 1] - x) ** 2
        lowest = squared.double() / (2 * sigma**2) - weight * log_nearest.double()
        gain = scores.own_log_probability.index_select(0, places).clamp(min=math.log(SMALLEST_PROBABILITY))
        reach = squared + (2 * sigma**2 * weight) * (gain - log_nearest).clamp(min=0)
        pixel, center, distance = find(centers, categories, y, x, categories[near], reach * 1.001 + 1e-3)
        logarithm = _clamped(scores.log_probability(categories[center], places.index_select(0, pixel)))
        energy = distance.double() / (2 * sigma**2) - weight * logarithm.double()
        cheapest[some], energies[some] = _lowest(near, lowest, pixel, center, energy)
    return cheapest, energies


def _clamped(logarithms: torch.Tensor) -> torch.Tensor:
    return logarithms.clamp_(min=math.log(SMALLEST_PROBABILITY))


def _find_near(
    centers: torch.Tensor,
    categories: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    known: torch.Tensor,
    reach: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs (pixel, center, squared distance) that compete, on a CPU.

    Args:
        centers, categories: of all centers.
        y, x: float32 (M,), the targets.
        known: int64 (M,), the class of the nearest center, whose centers do not compete.
        reach: float32 (M,), the squared distance within which a center competes.
    """
    center_y, center_x, target_y, target_x = (each.numpy() for each in (*centers.unbind(1), y, x))
    furthest = float(reach.max())
    outside_y = np.maximum(np.maximum(target_y.min() - center_y, center_y - target_y.max()), 0)
    outside_x = np.maximum(np.maximum(target_x.min() - center_x, center_x - target_x.max()), 0)
    # Not "more than", so that targets that are no numbers leave all of them.
    possible = np.flatnonzero(~(outside_y**2 + outside_x**2 > furthest) & (categories.numpy() >= 0))
    squared = center_y[possible, None] - target_y
    squared *= squared
    along_x = center_x[possible, None] - target_x
    along_x *= along_x
    squared += along_x
    competes = (squared <= reach.numpy()) & (categories.numpy()[possible, None] != known.numpy())
    flat = np.flatnonzero(competes)
    center, pixel = np.divmod(flat, len(target_y))
    found = (pixel, possible[center], squared.reshape(-1)[flat])
    return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(found[2])


def _find_all(
    centers: torch.Tensor,
    categories: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    known: torch.Tensor,
    reach: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`_find_near`, on any device."""
    squared = (centers[:, :1] - y) ** 2 + (centers[:, 1:] - x) ** 2
    competes = (squared <= reach) & (categories[:, None] != known) & (categories >= 0)[:, None]
    center, pixel = competes.nonzero(as_tuple=True)
    return pixel, center, squared[center, pixel]


def _lowest(
    nearest: torch.Tensor, lowest: torch.Tensor, pixel: torch.Tensor, center: torch.Tensor, energy: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Center and energy of the lowest of the pairs (N,) of each pixel, or of the nearest center; of equal ones that,
    then the first."""
    best = lowest.scatter_reduce(0, pixel, energy, "amin")
    wins = (energy == best[pixel]) & (energy < lowest[pixel])
    first = torch.full_like(nearest, torch.iinfo(nearest.dtype).max)
    first.scatter_reduce_(0, pixel[wins], center[wins].to(nearest.dtype), "amin")
    return torch.where(best < lowest, first, nearest), best
