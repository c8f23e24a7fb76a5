"""Hooks of the training loop, beside Detectron2's."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

logger = logging.getLogger(__name__)


class EvaluationHook(HookBase):
    """Evaluates every ``period`` iterations and after the last one, on all processes.

    As Detectron2's EvalHook, except that it does not evaluate after a failure in the last iteration, and that
    undefined (NaN) figures stay out of the logs, whose JSON they would break.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], Mapping[str, Any] | None],
        draw: Callable[[EventStorage], None] | None = None,
    ) -> None:
        """
        Args:
            period: iterations; 0 evaluates only at the end.
            evaluate: returns results on the main process; task to metric to number.
            draw: makes pictures of what was evaluated, on the main process.
        """
        self._period = period
        self._evaluate = evaluate
        self._draw = draw
        self._evaluated = 0  # iterations that were done at the last evaluation

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self.run()

    def after_train(self) -> None:
        # The loop sets it so when it has come to its end. The last evaluation may have been what ended it.
        if self.trainer.iter >= self.trainer.max_iter and self._evaluated != self.trainer.max_iter:
            self.run()

    def run(self) -> None:
        """Evaluate now and note the figures; all processes call it."""
        self._evaluated = self.trainer.iter + 1
        results = self._evaluate()
        if results:
            figures = {name: float(value) for name, value in flatten_results_dict(results).items() if value is not None}
            finite = {name: value for name, value in figures.items() if math.isfinite(value)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
            if self._draw is not None:
                self._draw(self.trainer.storage)
        comm.synchronize()  # evaluation may take unequal time


class SummaryHook(HookBase):
    """Says in the log, once training has come to its end, where everything is. Register it last, on the main process.

    Args:
        output_dir: the folder of the run.
    """

    def __init__(self, output_dir: str) -> None:
        self._folder = Path(output_dir)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            found = [f"  {words}: {path}" for words, path in contents_of_run(self._folder)]
            logger.info("Training is done. In %s:\n%s", self._folder, "\n".join(found))


def contents_of_run(folder: Path) -> list[tuple[str, str]]:
    """What there is in the folder of a training, as (what it is, its path in the folder)."""
    named = [
        ("model", "model_final.pth"),
        ("best model", "model_best.pth"),
        ("config", "config.yaml"),
        ("log", "log.txt"),
        ("losses and scores, one JSON a line", "metrics.json"),
        ("curves, for TensorBoard", "events.out.tfevents.*"),
        ("scores of the last evaluation", "inference/metrics.json"),
        ("Weights & Biases", "wandb"),
    ]
    listed = [(words, max(found).name if "*" in name else name) for words, name in named
              if (found := list(folder.glob(name)))]  # fmt: skip
    previews = sorted(folder.glob("previews/iter_*.jpg"))
    return listed + ([(f"{len(previews)} previews, the last one", f"previews/{previews[-1].name}")] if previews else [])
