"""The method: is there an effect at all, what is best, and is it better than the baseline with other seeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.tuning.engine import Engine, Search
from panoptic_plugin.tuning.halving import LEAST_GRACE, Halving
from panoptic_plugin.tuning.space import Space, Values
from panoptic_plugin.tuning.statistics import (
    FINAL_LEVEL,
    Comparison,
    ImageScores,
    compare,
    measure_noise,
    measure_spread,
)
from panoptic_plugin.tuning.trial import Objective, Record, Request

logger = logging.getLogger(__name__)

NO_EFFECT = "no detectable effect"
KEPT = "baseline kept"
BEATEN = "baseline beaten"
BASELINE = "baseline"
# Seeds of phases lie so far apart that no two phases share one.
CHECK_SEEDS, FINAL_SEEDS = 1000, 2000


@dataclass(frozen=True)
class Plan:
    """How much is tried.

    Attributes:
        trials: trainings of the search, the baseline included.
        seeds: of each point of the check, and of each finalist; at least 3.
        finalists: how many of the best are trained again.
        max_step: last step of a training.
        grace, reduction: see :class:`Halving`.
        seed: of everything random.
        search_anyway: also where the check finds no effect.
    """

    trials: int
    max_step: int
    seeds: int = 3
    finalists: int = 3
    grace: float = LEAST_GRACE
    reduction: float = 2
    seed: int = 0
    search_anyway: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 3:
            raise ConfigError(f"TUNE.SEEDS is {self.seeds}, expected 3 or more: fewer do not show what chance does")
        if self.trials < 2 or self.finalists < 1:
            raise ConfigError(
                f"TUNE.TRIALS is {self.trials} and TUNE.FINALISTS {self.finalists}; expected at least 2 and 1"
            )
        self.rule()

    def rule(self) -> Halving:
        return Halving(self.max_step, self.grace, self.reduction)


def tune(
    space: Space, baseline: Mapping[str, float], objective: Objective, engine: Engine, plan: Plan
) -> dict[str, Any]:
    """Run a whole study.

    Args:
        space: what is searched.
        baseline: the values to beat.
        objective: gives the scores by image of the finalists.
        engine: carries the trials out.
        plan: how much is tried.

    Returns:
        ``verdict`` (one of :data:`NO_EFFECT`, :data:`KEPT`, :data:`BEATEN`), ``reason`` in words, ``values`` to use,
        ``check``, ``search`` and ``final`` with their records.

    Raises:
        ConfigError: the baseline itself cannot be trained.
    """
    check = check_effect(space, baseline, engine, plan)
    study: dict[str, Any] = {"values": dict(baseline), "check": check, "search": [], "final": None}
    if not check["detected"] and not plan.search_anyway:
        spread = check["spread"]
        return {**study, "verdict": NO_EFFECT, "reason":
                f"the extremes of the space and the baseline differ by {spread['spread']:.2f}, which is no more than "
                f"the seeds alone explain ({spread['threshold']:.2f}); the search was left out"}  # fmt: skip
    search = Search(space, baseline, plan.trials, plan.seed, plan.seed)
    records = engine.search(search, plan.rule())
    study["search"] = [record.as_json() for record in records]
    _check_baseline(records[:1])
    candidates = best_of(records[1:], plan.finalists)
    if not candidates:
        return {**study, "verdict": KEPT, "reason": "no trial of the search was trained to its end"}
    study["final"] = final = run_finals(candidates, baseline, engine, plan)
    compare_finals(final, check, objective, plan)
    return {**study, **decide(final, check, baseline)}


def check_effect(space: Space, baseline: Mapping[str, float], engine: Engine, plan: Plan) -> dict[str, Any]:
    """Train the extremes of the space and the baseline with several seeds, and compare.

    Returns:
        ``points`` (name, values, records, scores), ``spread``, ``failed`` (names that could not be trained) and
        ``detected``.
    """
    points: dict[str, Values] = {BASELINE: dict(baseline), **space.extremes(baseline)}
    seeds = [plan.seed + CHECK_SEEDS + number for number in range(plan.seeds)]
    logger.info("Is there an effect? %d points with %d seeds each", len(points), plan.seeds)
    requests = [
        Request(f"check-{number}-seed-{seed}", "check", values, seed)
        for number, values in enumerate(points.values()) for seed in seeds
    ]  # fmt: skip
    records = engine.run_all(requests)
    by_point = {name: records[number * plan.seeds : (number + 1) * plan.seeds] for number, name in enumerate(points)}
    _check_baseline(by_point[BASELINE])
    failed = [name for name, some in by_point.items() if any(record.score is None for record in some)]
    usable = [name for name in points if name not in failed]
    spread = None
    if len(usable) > 1:
        spread = measure_spread(np.array([[record.score for record in by_point[name]] for name in usable]))
    listed = [
        {"name": name, "values": points[name], "records": [record.as_json() for record in some],
         "scores": [record.score for record in some]}
        for name, some in by_point.items()
    ]  # fmt: skip
    # Where a training fails that the baseline survives, the parameters do matter.
    detected = bool(failed) or (spread is not None and spread.detected)
    return {"points": listed, "compared": usable, "failed": failed, "detected": detected,
            "spread": None if spread is None else asdict(spread)}  # fmt: skip


def best_of(records: Sequence[Record], number: int) -> list[Record]:
    """Those with the highest scores among the trained to the end."""
    finished = [record for record in records if record.score is not None]
    return sorted(finished, key=lambda record: -(record.score or 0.0))[:number]


def run_finals(
    candidates: Sequence[Record], baseline: Mapping[str, float], engine: Engine, plan: Plan
) -> list[dict[str, Any]]:
    """Train the baseline and the candidates again with fresh seeds.

    Returns:
        A dict each, the baseline first: name, values, records, scores, mean (None where a training failed).
    """
    seeds = [plan.seed + FINAL_SEEDS + number for number in range(plan.seeds)]
    points = {BASELINE: dict(baseline), **{record.key: record.values for record in candidates}}
    logger.info("%d finalists and the baseline with %d fresh seeds each", len(candidates), plan.seeds)
    records = engine.run_all([final_request(name, values, seed) for name, values in points.items() for seed in seeds])
    found = []
    for number, (name, values) in enumerate(points.items()):
        some = records[number * len(seeds) : (number + 1) * len(seeds)]
        scores = [record.score for record in some]
        whole = [score for score in scores if score is not None]
        mean = math.fsum(whole) / len(whole) if len(whole) == len(scores) else None
        found.append({"name": name, "values": dict(values), "scores": scores, "mean": mean, "comparison": None,
                      "records": [record.as_json() for record in some]})  # fmt: skip
    _check_baseline(records[: len(seeds)])
    return found


def final_request(name: str, values: Mapping[str, float], seed: int) -> Request:
    """The training of a finalist with one of the fresh seeds."""
    return Request(f"final-{name}-seed-{seed}", "final", dict(values), seed, keep=True)


def compare_finals(final: Sequence[dict[str, Any]], check: Mapping[str, Any], objective: Objective, plan: Plan) -> None:
    """Fill in the ``comparison`` of each finalist that was trained with all seeds."""
    complete = [one for one in final if one["mean"] is not None]
    tables = [np.array([point["scores"] for point in check["points"] if point["name"] in check["compared"]]),
              np.array([one["scores"] for one in complete])]  # fmt: skip
    noise = measure_noise(tables)

    def images(one: Mapping[str, Any]) -> list[ImageScores]:
        return [
            objective.images(final_request(one["name"], one["values"], record["seed"])) for record in one["records"]
        ]

    reference = images(complete[0])
    for one in complete[1:]:
        # Several candidates are compared with the baseline: each has its part of the error allowed in all.
        level = FINAL_LEVEL / (len(final) - 1)
        one["comparison"] = asdict(compare(images(one), reference, noise=noise, level=level, seed=plan.seed))


def decide(
    final: Sequence[Mapping[str, Any]], check: Mapping[str, Any], baseline: Mapping[str, float]
) -> dict[str, Any]:
    """Verdict, reason and values from the finalists."""
    better = [one for one in final if one["comparison"] and one["comparison"]["better"]]
    if better:
        best = max(better, key=lambda one: one["mean"])
        comparison = Comparison(**best["comparison"])
        return {"verdict": BEATEN, "values": best["values"], "winner": best["name"], "reason":
                f"{best['name']} is better by {comparison.difference:.2f} ({comparison.low:.2f} to "
                f"{comparison.high:.2f}) with seeds that the search did not use"}  # fmt: skip
    verdict = KEPT if check["detected"] else NO_EFFECT
    return {"verdict": verdict, "values": dict(baseline), "reason":
            "no finalist is better than the baseline by more than chance explains, with seeds that the search did "
            "not use"}  # fmt: skip


def _check_baseline(records: Sequence[Record]) -> None:
    for record in records:
        if record.score is None:
            raise ConfigError(f"the baseline itself cannot be trained ({record.key}: {record.error or record.status}); "
                              "mend the config before it is tuned")  # fmt: skip
