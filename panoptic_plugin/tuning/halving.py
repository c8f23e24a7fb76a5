"""Asynchronous successive halving (Li et al., https://arxiv.org/abs/1810.05934), with an honest grace period."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from panoptic_plugin.errors import ConfigError

# A curve that leads early is often overtaken: below this share of the training nothing is decided.
LEAST_GRACE = 0.3


@dataclass
class Halving:
    """Decides at a few steps, the rungs, which trials go on.

    Args:
        max_step: the last step of a training.
        grace: share of it before the first rung.
        reduction: all but 1 / ``reduction`` of the trials are stopped at a rung.

    Raises:
        ConfigError: a grace below :data:`LEAST_GRACE` or above 1, or a reduction of 1 or less.
    """

    max_step: int
    grace: float = LEAST_GRACE
    reduction: float = 2
    _seen: dict[float, dict[str, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not LEAST_GRACE <= self.grace <= 1:
            raise ConfigError(
                f"TUNE.GRACE is {self.grace}, expected {LEAST_GRACE} to 1: earlier, curves cross too often to decide"
            )
        if self.reduction <= 1:
            raise ConfigError(f"TUNE.REDUCTION is {self.reduction}, expected more than 1, such as 2")

    @property
    def first_step(self) -> int:
        """No trial is stopped before it."""
        return int(np.ceil(self.grace * self.max_step))

    @property
    def rungs(self) -> list[float]:
        """Steps at which is decided, ascending."""
        rungs, step = [], self.grace * self.max_step
        while step < self.max_step:
            rungs.append(step)
            step *= self.reduction
        return rungs

    def goes_on(self, key: str, step: int, score: float) -> bool:
        """Whether a trial that has this score at this step goes on; each trial counts once a rung."""
        for rung in self.rungs:
            seen = self._seen.setdefault(rung, {})
            if step < rung or key in seen:
                continue
            seen[key] = score
            limit = np.percentile(list(seen.values()), 100 * (1 - 1 / self.reduction))
            if score < limit:
                return False
        return True
