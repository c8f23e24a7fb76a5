"""Hooks of the training loop, beside Detectron2's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm


class EvaluationHook(HookBase):
    """Evaluates every ``period`` iterations and after the last one, on all processes.

    As Detectron2's EvalHook, except that it does not evaluate after a failure in the last iteration, and that
    undefined (NaN) figures stay out of the logs, whose JSON they would break.
    """

    def __init__(self, period: int, evaluate: Callable[[], Mapping[str, Any] | None]) -> None:
        """
        Args:
            period: iterations; 0 evaluates only at the end.
            evaluate: returns results on the main process; task to metric to number.
        """
        self._period = period
        self._evaluate = evaluate

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._run()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # the loop sets it so when it has come to its end
            self._run()

    def _run(self) -> None:
        results = self._evaluate()
        if results:
            figures = {name: float(value) for name, value in flatten_results_dict(results).items() if value is not None}
            finite = {name: value for name, value in figures.items() if math.isfinite(value)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
        comm.synchronize()  # evaluation may take unequal time
