"""Hooks that heed what became of a step: the schedule, and the check before weights are saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.engine import HookBase, hooks


class LRScheduler(hooks.LRScheduler):
    """Detectron2's, under its name in checkpoints; the schedule waits where a step was not made.

    Args:
        stepped: whether the iteration has changed the weights.
    """

    def __init__(self, stepped: Callable[[], bool]) -> None:
        super().__init__()
        self._stepped = stepped

    def after_step(self) -> None:
        if self._stepped():
            super().after_step()


class CheckHook(HookBase):
    """Calls ``check`` after the iterations whose weights are saved or evaluated, on all processes.

    Register it before the hooks that do so.

    Args:
        check: raises where the weights must not be used.
        periods: iterations; 0 is never. The last iteration is always checked.
    """

    def __init__(self, check: Callable[[], None], periods: Sequence[int]) -> None:
        self._check = check
        self._periods = tuple(period for period in periods if period > 0)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self._check()
