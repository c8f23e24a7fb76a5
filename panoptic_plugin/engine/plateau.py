"""The learning-rate schedule that goes by the evaluations: warm-up, a constant rate, less of it where nothing improves.

Detectron2's schedules write a rate of their own in every iteration, which would undo what PyTorch's ReduceLROnPlateau
has changed; so here one schedule does both, :class:`WarmupPlateau`. :class:`PlateauHook` tells it of the evaluations,
and ends a training in which nothing improves any more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.solver.lr_scheduler import _get_warmup_factor_at_iter as warmup_factor_at
from detectron2.utils import comm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from panoptic_plugin.engine.agreement import of_main_process
from panoptic_plugin.engine.hooks import EvaluationHook
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

logger = logging.getLogger(__name__)

NAME = "WarmupPlateau"
MODES = ("max", "min")


class WarmupPlateau(torch.optim.lr_scheduler._LRScheduler):
    """``step()`` after each iteration warms up; ``judge()`` after each evaluation lowers the rates at a plateau.

    Its state holds its position only: what the config says about the schedule may change when a run is resumed.

    Args:
        optimizer: each group of its parameters starts with its own rate, and keeps its share of the rate and of
            ``min_lr``.
        base_lr: the rate that ``min_lr`` goes with.
        warmup_factor, warmup_iters, warmup_method: as Detectron2's schedules have them.
        metric: name of the figure, for messages and to tell a run's state from that of another figure.
        mode: "max" where a higher figure is better, "min" where a lower one is.
        factor, patience: of ReduceLROnPlateau; the evaluation after ``patience`` ones without improvement lowers.
        min_lr: the rates are not lowered further.
        early_stop: evaluations without improvement after which training is of no use; 0 for never.

    Attributes:
        rates: of the parameter groups, once warm.
        since_best: evaluations since the best one.
        evaluated: iteration of the last evaluation that was judged; -1 before.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        base_lr: float,
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: str,
        metric: str,
        mode: str,
        factor: float,
        patience: int,
        min_lr: float,
        early_stop: int,
    ) -> None:
        self.warmup_factor, self.warmup_iters, self.warmup_method = warmup_factor, warmup_iters, warmup_method
        self.metric, self.mode, self.early_stop = metric, mode, early_stop
        self.rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.since_best = 0
        self.evaluated = -1
        lowest = [min_lr * (rate / base_lr if base_lr else 1.0) for rate in self.rates]
        self._plateau = ReduceLROnPlateau(
            optimizer,
            mode=mode,  # type: ignore[arg-type]
            factor=factor,
            patience=patience,
            min_lr=lowest,
            eps=0.0,
        )
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        factor = warmup_factor_at(self.warmup_method, self.last_epoch, self.warmup_iters, self.warmup_factor)
        return [rate * factor for rate in self.rates]

    def judge(self, value: float | None, iteration: int) -> None:
        """Take note of an evaluation. During the warm-up, and without a finite figure, it does not count.

        Args:
            value: the figure, None where there is none.
            iteration: after which it was made.
        """
        self.evaluated = iteration
        if value is None or not math.isfinite(value) or self.last_epoch < self.warmup_iters:
            return
        best, rates = self._plateau.best, self.rates
        self._plateau.step(value)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.since_best = self.since_best + 1 if self._plateau.best == best else 0
        logger.info(
            "%s is %.4f after iteration %d; the best was %.4f, %d evaluations before",
            self.metric,
            value,
            iteration,
            self._plateau.best,
            self.since_best,
        )
        if self.rates != rates:
            logger.info("The learning rate is lowered from %.3g to %.3g", max(rates), max(self.rates))

    @property
    def exhausted(self) -> bool:
        """Whether there were ``early_stop`` evaluations without improvement."""
        return 0 < self.early_stop <= self.since_best

    def state_dict(self) -> dict[str, Any]:
        return {
            "base_lrs": self.base_lrs,
            "last_epoch": self.last_epoch,
            "rates": list(self.rates),
            "metric": self.metric,
            "mode": self.mode,
            "best": self._plateau.best,
            "num_bad_epochs": self._plateau.num_bad_epochs,
            "since_best": self.since_best,
            "evaluated": self.evaluated,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was saved; with another figure than that one's, the count starts anew."""
        self.base_lrs, self.last_epoch = list(state_dict["base_lrs"]), state_dict["last_epoch"]
        if "rates" not in state_dict:
            logger.warning("The checkpoint is of another learning-rate schedule; the count of evaluations starts now")
            return
        self.rates, self.evaluated = list(state_dict["rates"]), state_dict["evaluated"]
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        if (state_dict["metric"], state_dict["mode"]) != (self.metric, self.mode):
            logger.warning(
                "The learning rate went by %s before and goes by %s now; the count of evaluations starts anew",
                state_dict["metric"],
                self.metric,
            )
            return
        self._plateau.best, self._plateau.num_bad_epochs = state_dict["best"], state_dict["num_bad_epochs"]
        self.since_best = state_dict["since_best"]


class PlateauHook(HookBase):
    """Lets a :class:`WarmupPlateau` judge each evaluation, and ends the training, on all processes alike.

    A checkpoint is written before the evaluation of its iteration. So a run that is resumed from such a one makes the
    evaluation first; then it goes on as the run that was not interrupted. Register it after the evaluation hook and
    before hooks that do something after the last iteration.

    Args:
        schedule: the training's.
        evaluation: the hook that evaluates.
        period: iterations between evaluations.
    """

    def __init__(self, schedule: WarmupPlateau, evaluation: EvaluationHook, period: int) -> None:
        self._schedule = schedule
        self._evaluation = evaluation
        self._period = period

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if not 0 < start < self.trainer.max_iter:
            return
        if start % self._period == 0 and self._schedule.evaluated < start - 1:
            logger.info("The checkpoint is older than the evaluation after iteration %d; making it again", start - 1)
            self.trainer.iter = self.trainer.storage.iter = start - 1
            self._evaluation.run()
            self._judge()
            self.trainer.iter = self.trainer.storage.iter = start
        elif self._schedule.exhausted:
            self._end(start - 1)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 and done < self.trainer.max_iter:
            self._judge()

    def _judge(self) -> None:
        iteration, metric = self.trainer.iter, self._schedule.metric
        figures = {name: value for name, (value, at) in self.trainer.storage.latest().items() if at == iteration}
        value = of_main_process(figures.get(metric))
        if value is None and comm.is_main_process():
            logger.warning(
                "The evaluation after iteration %d has no (finite) figure %s, so the learning rate does not heed it. "
                "SOLVER.PLATEAU.METRIC: %s",
                iteration,
                metric,
                suggestion(metric, sorted(name for name in figures if "/" in name)),
            )
        self._schedule.judge(value, iteration)
        if self._schedule.exhausted:
            self._end(iteration)

    def _end(self, iteration: int) -> None:
        schedule = self._schedule
        logger.info(
            "%s has not become better in %d evaluations: the training ends after iteration %d. With "
            "SOLVER.PLATEAU.EARLY_STOP 0 it would go on",
            schedule.metric,
            schedule.since_best,
            iteration,
        )
        self.trainer.max_iter = iteration + 1


def build_warmup_plateau(cfg, optimizer: torch.optim.Optimizer) -> WarmupPlateau:
    """The schedule of ``SOLVER.PLATEAU``.

    Raises:
        ConfigError: see :func:`check_plateau`.
    """
    check_plateau(cfg)
    solver, plateau = cfg.SOLVER, cfg.SOLVER.PLATEAU
    return WarmupPlateau(
        optimizer,
        base_lr=solver.BASE_LR,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_method=solver.WARMUP_METHOD,
        metric=plateau.METRIC,
        mode=plateau.MODE,
        factor=plateau.FACTOR,
        patience=plateau.PATIENCE,
        min_lr=plateau.MIN_LR,
        early_stop=plateau.EARLY_STOP,
    )


# Key of SOLVER.PLATEAU, what is asked of its value, and that in words.
_RULES: list[tuple[str, Callable[[Any], bool], str]] = [
    ("METRIC", bool, "the name of a figure, for example panoptic_seg/PQ"),
    ("FACTOR", lambda value: 0 < value < 1, "a factor between 0 and 1"),
    ("PATIENCE", lambda value: value >= 0, "0 or more evaluations"),
    ("MIN_LR", lambda value: math.isfinite(value) and value >= 0, "a finite rate, 0 or more"),
    ("EARLY_STOP", lambda value: value >= 0, "a number of evaluations, or 0 for never"),
]


def check_plateau(cfg) -> None:
    """Find what would keep ``SOLVER.PLATEAU`` from working; nothing is asked of it where another schedule is chosen.

    Raises:
        ConfigError: a value that cannot be, or a config that never evaluates in a training.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME != NAME:
        return
    plateau = cfg.SOLVER.PLATEAU
    for key, accepts, expected in _RULES:
        if not accepts(plateau[key]):
            raise ConfigError(f"SOLVER.PLATEAU.{key} is {plateau[key]!r}, expected {expected}")
    if plateau.MODE not in MODES:
        raise ConfigError(f"SOLVER.PLATEAU.MODE is {plateau.MODE!r}. {suggestion(plateau.MODE, list(MODES))}")
    remedy = f"or choose another SOLVER.LR_SCHEDULER_NAME than {NAME}, which goes by the evaluations of a training"
    if cfg.TEST.EVAL_PERIOD <= 0:
        raise ConfigError(
            f"TEST.EVAL_PERIOD is {cfg.TEST.EVAL_PERIOD}; set it to the iterations of an epoch (images divided by "
            f"SOLVER.IMS_PER_BATCH), {remedy}"
        )
    if not cfg.DATASETS.TEST:
        raise ConfigError(f"DATASETS.TEST is empty; name a dataset to evaluate, {remedy}")
    if plateau.MIN_LR > cfg.SOLVER.BASE_LR > 0:
        raise ConfigError(
            f"SOLVER.PLATEAU.MIN_LR is {plateau.MIN_LR}, more than SOLVER.BASE_LR {cfg.SOLVER.BASE_LR}, which could "
            "never be lowered; set a smaller MIN_LR"
        )
