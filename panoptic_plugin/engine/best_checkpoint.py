"""Keeps the best model of a run, also across ``--resume``."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from panoptic_plugin.engine.checkpoint import PluginCheckpointer
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import BEST
from panoptic_plugin.errors import CheckpointError

logger = logging.getLogger(__name__)


class BestCheckpointHook(HookBase):
    """Writes ``model_best.pth`` when an evaluation is better than all before it in this run.

    Detectron2's BestCheckpointer forgets the best figure when a run is resumed, and then replaces a better model; here
    the figure is in every checkpoint and in ``model_best.pth`` itself. Register it after the evaluation hook.

    Args:
        checkpointer: writes the file.
        metrics: names such as ``panoptic_seg/PQ``; the first that an evaluation yields decides, higher is better.
        iteration_period: iterations between evaluations, 0 for none but the last.
    """

    def __init__(self, checkpointer: PluginCheckpointer, metrics: Sequence[str], iteration_period: int) -> None:
        self._checkpointer = checkpointer
        self._metrics = tuple(metrics)
        self._period = iteration_period
        self._best: dict[str, Any] = {}

    def before_train(self) -> None:
        if self.trainer.start_iter == 0:
            self._best = {}
            return
        # A checkpoint is written before the evaluation of its iteration, so it may lack that evaluation's figure.
        path = Path(self._checkpointer.save_dir, f"{BEST}.pth")
        try:
            content = load_checkpoint_file(path) if path.is_file() else {}
        except CheckpointError as error:
            logger.warning("The best model so far is lost: %s", error)
            self._best = {}
            return
        of_file = content.get("best") if isinstance(content, dict) else None
        if of_file and (not self._best or of_file["value"] > self._best["value"]):
            self._best = of_file
        if self._best:
            logger.info("Best so far: %(metric)s %(value).3f in iteration %(iteration)d", self._best)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._compare(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # the loop sets it so when it has come to its end
            self._compare(self.trainer.max_iter - 1)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = dict(state_dict)

    def _compare(self, iteration: int) -> None:
        latest = self.trainer.storage.latest()
        metric = next((name for name in self._metrics if name in latest), None)
        if metric is None:
            return  # another process than the main one, or nothing was evaluated
        value = float(latest[metric][0])
        if not math.isfinite(value) or (self._best and value <= self._best["value"]):
            return
        self._best = {"metric": metric, "value": value, "iteration": iteration}
        logger.info("%s is %.3f, the best so far: saving %s.pth", metric, value, BEST)
        self._checkpointer.save(BEST, iteration=iteration, best=self._best)
