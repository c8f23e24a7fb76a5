"""SIGTERM, as preemptible machines and job schedulers send it, saves the training and ends it in good order."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from panoptic_plugin.engine.agreement import any_process

logger = logging.getLogger(__name__)

# What a shell reports of a process that SIGTERM has ended.
EXIT_CODE = 128 + signal.SIGTERM
# How long an iteration may take after the signal, beside twice what the last one took.
PATIENCE_SECONDS = 8.0


class StopOnSignalHook(HookBase):
    """After a SIGTERM to any process: all finish their iteration, one checkpoint is saved, and all exit with 143.

    ``--resume`` goes on from there. The signal is heeded at the end of an iteration; one that comes during an
    evaluation waits for it and for the iteration after it. A process that hangs in an iteration ends without saving.
    Register the hook after the one that saves checkpoints and before evaluation.

    Args:
        checkpointer: saves on the main process.
        checkpoint_period: iterations; where one has just been saved, none is saved again.
    """

    def __init__(self, checkpointer: Any, checkpoint_period: int) -> None:
        self._checkpointer = checkpointer
        self._period = checkpoint_period
        self._received = False
        self._in_iteration = False
        self._started = time.monotonic()
        self._seconds = 0.0
        self._handler_before: Any = None

    def before_train(self) -> None:
        # Python delivers signals to the main thread only. Workers of the data loader, forked later, inherit the
        # handler: a signal to the whole process group does not kill them before their last batch is used.
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, self._on_signal)

    def after_train(self) -> None:
        self._in_iteration = False
        if self._handler_before is not None:
            signal.signal(signal.SIGTERM, self._handler_before)
            self._handler_before = None

    def before_step(self) -> None:
        self._started, self._in_iteration = time.monotonic(), True
        if self._received:
            self._watch()

    def after_step(self) -> None:
        self._seconds, self._in_iteration = time.monotonic() - self._started, False
        iteration = self.trainer.iter
        if not any_process(self._received) or iteration + 1 >= self.trainer.max_iter:
            return
        if (iteration + 1) % self._period:
            self.trainer.check_losses()
            self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        comm.synchronize()  # nobody leaves, and so ends the job, before the file is written
        logger.warning("SIGTERM: stopped after iteration %d and saved; --resume goes on from there", iteration)
        raise SystemExit(EXIT_CODE)

    def _on_signal(self, number: int, frame: Any) -> None:
        if not self._received:
            self._received = True
            if self._in_iteration:
                self._watch()

    def _watch(self) -> None:
        """End this process if it does not come to the end of its iteration: it hangs, or waits for one that is gone."""
        started = self._started

        def end() -> None:
            if self._in_iteration and self._started == started:
                logger.error("SIGTERM: the iteration did not end in time; nothing is saved")
                os._exit(EXIT_CODE)

        timer = threading.Timer(PATIENCE_SECONDS + 2 * self._seconds, end)
        timer.daemon = True
        timer.start()
