"""Started by test_failing_process.py: the train script, in which process 1 fails in iteration 2 as ``FAILURE`` says."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from pathlib import Path

from detectron2.utils import comm

from panoptic_plugin.engine.launch import _free_port, start_processes
from panoptic_plugin.engine.trainer import PanopticTrainer
from panoptic_plugin.errors import DatasetError


def fail(trainer: PanopticTrainer) -> None:
    if trainer.iter == 2 and comm.get_rank() == 1:
        Path(trainer.cfg.OUTPUT_DIR, "failed_at").write_text(str(time.time()))
        failure = os.environ["FAILURE"]
        if failure == "raise":
            raise KeyError("the first cause")
        if failure == "user error":
            raise DatasetError("image a.png: the first cause")
        if failure == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if failure == "hang":
            time.sleep(1000)
    original(trainer)


original = PanopticTrainer.run_step
PanopticTrainer.run_step = fail


def job(words: list[str]) -> None:
    """In a process that was started: the script as far as it comes after that."""
    from panoptic_plugin.cli.train import build_parser, resolve_config, work

    PanopticTrainer.run_step = fail
    args = build_parser().parse_args(words)
    cfg, _ = resolve_config(args)
    work(cfg, args)


def start(words: list[str]) -> None:
    from datetime import timedelta

    url = f"tcp://127.0.0.1:{_free_port()}"
    start_processes(job, 2, 1, 0, url, (words,), use_cuda=False, timeout=timedelta(seconds=10))


if __name__ == "__main__":
    if "RANK" in os.environ:
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from panoptic_plugin.cli.run import run_cli

        sys.exit(run_cli(start, sys.argv[2:]))
