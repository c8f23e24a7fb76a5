"""Who carries trials out: in this process, one after the other, or Ray Tune."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.tuning.halving import Halving
from panoptic_plugin.tuning.journal import Journal
from panoptic_plugin.tuning.proposals import make_proposals
from panoptic_plugin.tuning.space import Space
from panoptic_plugin.tuning.trial import Objective, Record, Request, carry_out

logger = logging.getLogger(__name__)

ENGINES = ("auto", "local", "ray")


@dataclass(frozen=True)
class Search:
    """What a search is.

    Attributes:
        space: where.
        baseline: its first point; never stopped.
        num_trials: the baseline included.
        seed: of the proposals.
        trial_seed: of all its trainings.
    """

    space: Space
    baseline: Mapping[str, float]
    num_trials: int
    seed: int
    trial_seed: int

    def request(self, number: int, values: Mapping[str, float]) -> Request:
        """The request of the trial with that number."""
        return Request(f"search-{number:03d}", "search", dict(values), self.trial_seed)


class Engine(Protocol):
    """Carries out requests; those whose records are in the journal are not carried out again."""

    def run_all(self, requests: Sequence[Request]) -> list[Record]:
        """Each to its end; records in the order of the requests."""

    def search(self, search: Search, rule: Halving) -> list[Record]:
        """Trials that a search proposes, stopped early by the rule; the baseline's record comes first."""


class LocalEngine:
    """One trial after the other in this process; the same seed and results give the same trials, resumed or not."""

    name = "local"

    def __init__(self, objective: Objective, journal: Journal) -> None:
        self._objective, self._journal = objective, journal

    def run_all(self, requests: Sequence[Request]) -> list[Record]:
        return [self._run(request, None) for request in requests]

    def search(self, search: Search, rule: Halving) -> list[Record]:
        proposals = make_proposals(search.space, search.baseline, search.seed, search.num_trials)
        records = []
        for number in range(search.num_trials):
            request = search.request(number, proposals.ask())
            record = self._run(request, rule, is_baseline=number == 0)
            proposals.tell(record)
            records.append(record)
        return records

    def _run(self, request: Request, rule: Halving | None, *, is_baseline: bool = False) -> Record:
        def watch(record: Record) -> bool:
            step, score = record.curve[-1]
            return rule is None or rule.goes_on(record.key, step, score) or is_baseline

        known = self._journal.records.get(request.key)
        if known is not None and _same_values(known.values, request.values):
            if rule is not None:  # it takes part in the decisions about later ones
                for step, score in known.curve:
                    rule.goes_on(known.key, step, score)
            return known
        record = carry_out(self._objective, request, watch)
        self._journal.add(record)
        log_record(record)
        return record


def log_record(record: Record) -> None:
    """One line about a finished trial."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in record.values.items())
    last = f"score {record.curve[-1][1]:.2f} at step {record.curve[-1][0]}" if record.curve else "no score"
    logger.info("%s (%s, seed %d): %s, %s, %.0f s", record.key, values, record.seed, record.status, last,
                record.seconds)  # fmt: skip


def _same_values(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return set(one) == set(other) and all(abs(one[name] - other[name]) <= 1e-9 * abs(other[name]) for name in other)


def choose_engine(asked: str, address: str | None) -> str:
    """ "ray" or "local" for what ``--engine`` and ``--address`` say.

    Raises:
        ConfigError: Ray is asked for and not installed, or an address without Ray.
    """
    if address and asked == "local":
        raise ConfigError("--address is that of a Ray cluster; leave out --engine local")
    there = importlib.util.find_spec("ray") is not None
    if (asked == "ray" or address) and not there:
        raise ConfigError("Ray is not installed; pip install 'panoptic-plugin[tune]', or use --engine local")
    if asked == "auto":
        return "ray" if there else "local"
    return asked
