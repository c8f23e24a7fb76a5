"""Which values to try next: Optuna's TPE where it is installed, else quasi-random points and then around their best.

Both are seeded, and depend on nothing but what they are told in which order: told again what a killed study had found,
they go on as it would have.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from panoptic_plugin.tuning.space import Space, Values
from panoptic_plugin.tuning.trial import DONE, FAILED, Record

logger = logging.getLogger(__name__)


class Proposals(Protocol):
    """Proposes points, one after the other; each is answered by :meth:`tell` before the next."""

    def ask(self) -> Values: ...

    def tell(self, record: Record) -> None: ...


def make_proposals(space: Space, baseline: Mapping[str, float], seed: int, num_trials: int) -> Proposals:
    """Optuna's where it is installed; the baseline is the first point of both."""
    if importlib.util.find_spec("optuna") is not None:
        return OptunaProposals(space, baseline, seed)
    logger.info("Optuna is not installed (pip install 'panoptic-plugin[tune]'): quasi-random points are tried")
    return QuasiRandomProposals(space, baseline, seed, num_trials)


def optuna_distributions(space: Space) -> dict[str, Any]:
    """Name -> Optuna's distribution."""
    import optuna

    return {
        one.name: optuna.distributions.FloatDistribution(one.low, one.high, log=one.log) for one in space.parameters
    }


class OptunaProposals:
    """Optuna's Tree-structured Parzen Estimator."""

    def __init__(self, space: Space, baseline: Mapping[str, float], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.enqueue_trial(dict(baseline))
        self._distributions = optuna_distributions(space)
        self._trial: Any = None

    def ask(self) -> Values:
        self._trial = self._study.ask(self._distributions)
        return {name: float(value) for name, value in self._trial.params.items()}

    def tell(self, record: Record) -> None:
        for step, score in record.curve:
            self._trial.report(score, step)
        if record.status == FAILED:
            self._study.tell(self._trial, state=self._states.FAIL)
        elif record.status == DONE:
            self._study.tell(self._trial, record.score)
        else:
            self._study.tell(self._trial, state=self._states.PRUNED)


class QuasiRandomProposals:
    """Points of a scrambled Sobol sequence in the first half; then a Gaussian around the best one, closer and closer.

    Args:
        num_trials: how many will be asked for.
    """

    def __init__(self, space: Space, baseline: Mapping[str, float], seed: int, num_trials: int) -> None:
        from scipy.stats import qmc

        self._space, self._baseline = space, dict(baseline)
        self._generator = np.random.default_rng(seed)
        self._num_spread = max(1, num_trials // 2)
        places = qmc.Sobol(len(space.parameters), seed=seed).random_base2(int(np.ceil(np.log2(self._num_spread + 1))))
        self._places = places[: self._num_spread]
        self._records: list[Record] = []

    def ask(self) -> Values:
        number = len(self._records)
        if number == 0:
            return dict(self._baseline)
        finished = [record for record in self._records if record.score is not None]
        if number <= self._num_spread or not finished:
            return self._values(self._places[(number - 1) % self._num_spread])
        best = max(finished, key=lambda record: record.score or 0.0)
        width = 0.2 * 0.9 ** (number - self._num_spread)
        center = np.array([one.place(best.values[one.name]) for one in self._space.parameters])
        return self._values(np.clip(self._generator.normal(center, width), 0, 1))

    def _values(self, places: np.ndarray) -> Values:
        return {one.name: one.at(float(place)) for one, place in zip(self._space.parameters, places, strict=True)}

    def tell(self, record: Record) -> None:
        self._records.append(record)
