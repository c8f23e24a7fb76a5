"""Learning curves made up for tests of the tuner: scores in percent over steps, with noise, at no cost."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np

from panoptic_plugin.tuning.space import Parameter, Space
from panoptic_plugin.tuning.statistics import MeanOfImages

NUM_IMAGES = 40
STEPS = (20, 40, 60, 80, 100)
BASELINE = {"center": 200.0, "offset": 0.01}
SPACE = Space(
    (
        Parameter("center", "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT", 20.0, 2000.0, relation="ratio"),
        Parameter("offset", "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT", 1e-3, 1e-1, relation="ratio"),
    )
)


def planted(values: Mapping[str, float]) -> float:
    """Highest at center 100, offset 0.02."""
    return 60 - 10 * (math.log10(values["center"] / 100) ** 2 + math.log10(values["offset"] / 0.02) ** 2)


def flat(values: Mapping[str, float]) -> float:
    return 50.0


class Surrogate:
    """An objective whose score approaches ``height(values)``; noise is shared by trials of a seed, and their own.

    Args:
        height: score at the end.
        noise: standard deviation of the score of a training; half of its variance is that of the seed.
        curve: share of the height at a share of the training; of the values too.
        study: changes all noise.
    """

    def __init__(
        self,
        height: Callable[[Mapping[str, float]], float],
        noise: float = 0.5,
        curve: Callable[[Mapping[str, float], float], float] = lambda values, share: 1 - math.exp(-5 * share),
        study: int = 0,
    ) -> None:
        self.height, self.noise, self.curve, self.study = height, noise, curve, study
        self.calls: list[str] = []

    def run(self, request, report) -> None:
        self.calls.append(request.key)
        for step in STEPS:
            share = step / STEPS[-1]
            score = (
                self._end(request) if share == 1 else self.height(request.values) * self.curve(request.values, share)
            )
            report(step, score, {"PQ_th": score})

    def images(self, request) -> MeanOfImages:
        spread = self._random("images").normal(0, 10, NUM_IMAGES)
        own = self._random(request.key).normal(0, 1, NUM_IMAGES)
        values = spread + own - (spread + own).mean() + self._end(request)
        return MeanOfImages(values)

    def _end(self, request) -> float:
        deviation = self.noise / math.sqrt(2)
        shared = self._random("seed", request.seed).normal(0, deviation)
        own = self._random(request.key, request.seed).normal(0, deviation)
        return self.height(request.values) + shared + own

    def _random(self, *words) -> np.random.Generator:
        digest = hashlib.sha256(repr((self.study, *words)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def counts_of(generator, num_settings, gain):
    """Counts (settings, 30 images, 1 class, 4): the last setting finds ``gain`` more of 20 objects in each image."""
    found = generator.binomial(20, 0.5, (1, 30)) + generator.integers(-1, 2, (num_settings, 30))
    found[-1] += gain
    table = np.zeros((num_settings, 30, 1, 4))
    table[..., 0, 0], table[..., 0, 1], table[..., 0, 3] = 0.8 * found, found, 20 - found
    return table
