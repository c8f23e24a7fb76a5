"""What counts as an effect: the spread of points over seeds, and paired differences over images.

Shapes: G points, S seeds, B resamples, I images, C categories. Scores are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

# A flat surface is called flat in 98 of 100 studies.
CHECK_LEVEL = 0.02
# Of all comparisons with the baseline together.
FINAL_LEVEL = 0.05
RESAMPLES = 2000


@dataclass(frozen=True)
class Spread:
    """Whether points differ by more than the seeds do.

    Attributes:
        means: of each point.
        spread: highest less lowest mean.
        standard_error: of the difference of two means.
        threshold: a spread that chance exceeds in ``level`` of all cases.
        p_value: how often chance alone gives such a spread.
        detected: the spread is above the threshold.
    """

    means: tuple[float, ...]
    spread: float
    standard_error: float
    threshold: float
    p_value: float
    level: float
    detected: bool


def measure_spread(scores: np.ndarray, level: float = CHECK_LEVEL) -> Spread:
    """Compare points that were tried with the same seeds.

    What a seed does to all points alike does not count: order of the images and initial weights are shared. Two
    standard errors are a fair limit for two points; of five points with three seeds the two furthest apart exceed it
    in a third of all cases by chance alone, so the limit is that of the studentised range (Tukey).

    Args:
        scores: float (G, S), G and S at least 2, finite.
        level: how often a flat surface may be called an effect.
    """
    from scipy.stats import studentized_range

    num_points, num_seeds = scores.shape
    means = scores.mean(axis=1)
    noise = measure_noise([scores])
    spread, of_mean = float(means.max() - means.min()), noise.deviation / np.sqrt(num_seeds)
    if of_mean < 1e-9:  # no noise at all: any difference is real
        detected = spread > 1e-6
        return Spread(tuple(means.tolist()), spread, 0.0, 0.0, 0.0 if detected else 1.0, level, detected)
    threshold = _studentized_limit(level, num_points, noise.freedom) * of_mean
    p_value = float(studentized_range.sf(spread / of_mean, num_points, noise.freedom))
    error = float(of_mean * np.sqrt(2))
    return Spread(tuple(means.tolist()), spread, error, float(threshold), p_value, level, bool(spread > threshold))


@lru_cache
def _studentized_limit(level: float, num_points: int, freedom: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - level, num_points, freedom))


class Noise(NamedTuple):
    """Standard deviation of the score of one training beside what its seed does to all, and its degrees of freedom."""

    deviation: float
    freedom: int

    def limit(self, num_seeds: int, level: float) -> float:
        """What chance lets two means over ``num_seeds`` trainings differ by at most, either way, but for ``level``."""
        from scipy.stats import t

        return float(t.ppf(1 - level / 2, self.freedom) * self.deviation * np.sqrt(2 / num_seeds))


def measure_noise(tables: Sequence[np.ndarray]) -> Noise:
    """The noise of single trainings, pooled over tables.

    Args:
        tables: each float (G, S): points by seeds, what a seed does to all points of a table alike does not count.
    """
    squares, freedom = 0.0, 0
    for scores in tables:
        rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
        squares += float((rest**2).sum())
        freedom += (scores.shape[0] - 1) * (scores.shape[1] - 1)
    return Noise(float(np.sqrt(squares / max(freedom, 1))), max(freedom, 1))


class ImageScores(Protocol):
    """The score of a set of images, for any choice of them."""

    num_images: int

    def score(self, times: np.ndarray) -> np.ndarray:
        """float (B,) percent, for how many times, int (B, I), each image is taken."""


class MeanOfImages:
    """A score that is the mean over the images."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = np.asarray(values, np.float64)
        self.num_images = len(self._values)

    def score(self, times: np.ndarray) -> np.ndarray:
        return times @ self._values / times.sum(axis=1)


class PanopticScores:
    """PQ from what each image contributes to it.

    Args:
        counts: float (I, C, 4): sum of the IoUs, true positives, false positives and false negatives.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = np.asarray(counts, np.float64)
        self.num_images = len(self.counts)

    def score(self, times: np.ndarray) -> np.ndarray:
        totals = (times @ self.counts.reshape(self.num_images, -1)).reshape(len(times), -1, 4)
        weights = totals[..., 1] + 0.5 * totals[..., 2] + 0.5 * totals[..., 3]
        present = weights > 0
        quality = np.where(present, totals[..., 0] / np.where(present, weights, 1), 0.0)
        return 100 * quality.sum(axis=1) / np.maximum(present.sum(axis=1), 1)


@dataclass(frozen=True)
class Comparison:
    """A candidate against the baseline.

    Attributes:
        difference: mean over the seeds, candidate less baseline.
        low, high: confidence interval over the images.
        by_seed: the difference of each seed.
        by_chance: up to so much two equal candidates differ, because no training is like another.
        level: of the interval and of ``by_chance``: how often they err.
        better: the interval is above 0, and the difference above ``by_chance``.
    """

    difference: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    by_chance: float
    level: float
    better: bool


def compare(
    candidate: Sequence[ImageScores],
    baseline: Sequence[ImageScores],
    *,
    noise: Noise,
    level: float = FINAL_LEVEL,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Paired bootstrap over the images, the same ones for both; and the noise of trainings beside it.

    The few seeds of a candidate say little about how much trainings vary; the whole study says more.

    Args:
        candidate, baseline: by seed, in the same order, of the same images.
        noise: of single trainings.
        level: see :class:`Comparison`.
        seed: of the resampling.
        resamples: how many.
    """
    num_images = candidate[0].num_images
    times = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    once = np.ones((1, num_images), np.int64)
    pairs = list(zip(candidate, baseline, strict=True))
    by_seed = [float((one.score(once) - other.score(once))[0]) for one, other in pairs]
    differences = np.mean([one.score(times) - other.score(times) for one, other in pairs], axis=0)
    low, high = np.percentile(differences, [50 * level, 100 - 50 * level])
    mean, by_chance = float(np.mean(by_seed)), noise.limit(len(pairs), level)
    better = bool(low > 0 and mean > by_chance)
    return Comparison(mean, float(low), float(high), tuple(by_seed), by_chance, level, better)
