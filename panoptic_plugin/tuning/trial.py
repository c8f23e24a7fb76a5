"""One trial: what is asked for, what came of it, and who carries it out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from panoptic_plugin.errors import one_line
from panoptic_plugin.tuning.statistics import ImageScores

logger = logging.getLogger(__name__)

# (step, score, other figures of that step)
Report = Callable[[int, float, Mapping[str, float]], None]
DONE, STOPPED, FAILED = "done", "stopped", "failed"


@dataclass(frozen=True)
class Request:
    """A training to be made.

    Attributes:
        key: its name in the study, also that of its folder.
        phase: "check", "search" or "final".
        values: of the parameters.
        seed: of order of images, augmentation and initial weights. Trials of one seed share them all.
        keep: keep weights and the scores of single images.
    """

    key: str
    phase: str
    values: Mapping[str, float]
    seed: int
    keep: bool = False


@dataclass
class Record:
    """What came of a request.

    Attributes:
        status: "done" (trained to the end), "stopped" (early, by the rule) or "failed".
        curve: (step, score) of each evaluation.
        figures: other figures of the last evaluation.
        error: why it failed.
        seconds: it took.
    """

    key: str
    phase: str
    values: dict[str, float]
    seed: int
    status: str = DONE
    curve: list[tuple[int, float]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0

    @property
    def score(self) -> float | None:
        """Of the end of the training; None where it did not get there."""
        return self.curve[-1][1] if self.status == DONE and self.curve else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        return cls(**{**content, "curve": [(int(step), float(score)) for step, score in content["curve"]]})


class Objective(Protocol):
    """Something that can be tried, such as a training; it can be pickled where another process tries it."""

    def run(self, request: Request, report: Report) -> None:
        """Carry it out; ``report`` is called after each evaluation and may raise TrialStopped."""

    def images(self, request: Request) -> ImageScores:
        """Scores by image of a request that was kept."""


class TrialStopped(BaseException):
    """Ends a trial that is not promising: no error, so that nothing on the way handles it as one."""


class NotFinite(ArithmeticError):
    """A score that is infinite or NaN."""


def carry_out(objective: Objective, request: Request, watch: Callable[[Record], bool] = lambda record: True) -> Record:
    """Run a trial to its end; what goes wrong in it is written into its record.

    Args:
        objective: what to run.
        request: with which values.
        watch: is shown the record after each evaluation; False stops the trial.
    """
    record = Record(request.key, request.phase, dict(request.values), request.seed)
    started = time.perf_counter()

    def report(step: int, score: float, figures: Mapping[str, float]) -> None:
        if not math.isfinite(score):
            raise NotFinite(f"the score is {score} after step {step}")
        record.curve.append((int(step), float(score)))
        record.figures = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        if not watch(record):
            raise TrialStopped

    try:
        objective.run(request, report)
        if not record.curve:
            raise NotFinite("the trial reported no score")
    except TrialStopped:
        record.status = STOPPED
    except Exception as error:  # whatever it is, the search goes on without this trial
        record.status, record.error = FAILED, f"{type(error).__name__}: {one_line(error)}"
        logger.warning("Trial %s failed: %s", request.key, record.error)
    record.seconds = round(time.perf_counter() - started, 3)
    return record
