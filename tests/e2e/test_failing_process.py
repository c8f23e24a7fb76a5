"""One process that fails ends the whole job in time, says why last, and leaves no process and no damaged checkpoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import read_pointer

pytestmark = pytest.mark.slow

TIMEOUT = 10
MARKER = "PANOPTIC_TEST_OF_A_FAILING_PROCESS"
# How process 1 fails: what the end of the output then says.
FAILURES = {
    "raise": "the first cause",
    "user error": "image a.png: the first cause",
    "kill": "SIGKILL",
    "hang": "Timed out waiting",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Path]:
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes")
    with job_environment(folder):
        yield folder


def run(start: list[str], failure: str, out: Path, repository: Path) -> tuple[int, str, float]:
    """Exit code, error output, and the seconds from the failure to the end."""
    config = write_config(out.parent / "config", SOLVER__MAX_ITER=500, DISTRIBUTED__TIMEOUT=TIMEOUT)
    words = [str(Path(__file__).with_name("failing_job.py")), str(repository / "train_panoptic_deeplab.py")]
    words += ["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(out), "DATASETS.TEST", "()"]
    done = subprocess.run(
        [sys.executable, *start, *words], capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "FAILURE": failure, MARKER: str(out)},
    )  # fmt: skip
    seconds = time.time() - float((out / "failed_at").read_text())
    return done.returncode, done.stderr, seconds


def left_over(out: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(out):
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.parametrize(
    "start, failure",
    [(TORCHRUN, "user error"), (TORCHRUN, "kill"), (TORCHRUN, "hang"), ([], "raise"), ([], "kill")],
    ids=lambda value: value if isinstance(value, str) else "torchrun" if value else "started here",
)
def test_a_failing_process_ends_the_job(start, failure, scenes, tmp_path, repository):
    code, errors, seconds = run(start, failure, tmp_path / "out", repository)
    assert code != 0
    assert seconds < TIMEOUT + 15
    end = errors[-3000:]
    assert re.search(FAILURES[failure], end), errors[-6000:]
    if start and failure != "hang":  # whose only witness is the process that waited
        assert end.index("rank      : 1") > end.index("Root Cause")
    elif not start:
        assert "process 1" in end.lower()
    assert not left_over(tmp_path / "out")
    pointed = tmp_path / "out" / read_pointer(tmp_path / "out")
    assert load_checkpoint_file(pointed)["iteration"] == 1
