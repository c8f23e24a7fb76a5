"""A training that is killed or stopped and then resumed ends with the weights of one that ran through, bit by bit."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.engine.checkpoint_history import read_pointer
from panoptic_plugin.engine.termination import EXIT_CODE

pytestmark = pytest.mark.slow

ITERATIONS = 8


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Path]:
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes", num_train=5)
    with job_environment(folder):
        yield folder


@pytest.fixture(scope="module")
def command(scenes, tmp_path_factory, repository) -> list[str]:
    """The training, with all randomness there is: dropout, flips, sizes, crops, colours, pasted objects."""
    config = write_config(
        tmp_path_factory.mktemp("config"),
        SOLVER__MAX_ITER=ITERATIONS,
        SOLVER__CHECKPOINT_PERIOD=1,
        INPUT__MIN_SIZE_TRAIN=[64, 72, 80],
        INPUT__MAX_SIZE_TRAIN=160,
        INPUT__COLOR_JITTER=True,
        INPUT__COPY_PASTE_PROB=0.5,
        DATASETS__TEST=[],
    )
    return [str(repository / "train_panoptic_deeplab.py"), "--config-file", str(config), "--num-gpus", "0"]


def start(command: list[str], out: Path, *words: str, processes: int = 1, **variables: str) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    prefix = [sys.executable, *(torchrun if processes > 1 else [])]
    return subprocess.Popen(
        [*prefix, *command, *words, "OUTPUT_DIR", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **variables},
    )  # fmt: skip


def finish(child: subprocess.Popen) -> None:
    _, errors = child.communicate()
    assert child.returncode == 0, errors[-3000:]


def wait_for_iteration(child: subprocess.Popen, out: Path, iteration: int) -> None:
    while read_pointer(out) < f"model_{iteration:07d}.pth":
        assert child.poll() is None, f"ended with {child.returncode} before iteration {iteration}"
        time.sleep(0.002)


def wait_for_start(child: subprocess.Popen, out: Path) -> None:
    log = out / "log.txt"
    while not log.exists() or "Starting training" not in log.read_text():
        assert child.poll() is None, child.stderr.read()[-6000:]
        time.sleep(0.005)


def digest(out: Path) -> str:
    """Of weights, optimizer, schedule and all else that the last checkpoint holds about the training."""
    content = torch.load(out / "model_final.pth", weights_only=True)
    found = hashlib.sha1()
    optimizer = content["trainer"]["_trainer"]["optimizer"]["state"]
    for name, value in content["model"].items():
        found.update(name.encode() + value.numpy().tobytes())
    for number, state in sorted(optimizer.items()):
        for name, value in sorted(state.items()):
            found.update(f"{number} {name}".encode() + value.numpy().tobytes())
    found.update(repr(content["trainer"]["hooks"]["LRScheduler"]).encode())
    return found.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(start(command, out))
    return digest(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed(command, undisturbed, tmp_path, workers):
    words = ["DATALOADER.NUM_WORKERS", str(workers)]
    child = start(command, tmp_path, *words)
    wait_for_iteration(child, tmp_path, random.randrange(ITERATIONS - 3))
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    reached = read_pointer(tmp_path)
    assert reached < f"model_{ITERATIONS - 1:07d}"
    finish(start(command, tmp_path, "--resume", *words))
    assert digest(tmp_path) == undisturbed, f"killed after {reached}"
    assert "not bit-exact" not in (tmp_path / "log.txt").read_text()


def test_another_seed_ends_elsewhere(command, undisturbed, tmp_path):
    finish(start(command, tmp_path, "SEED", "2"))
    assert digest(tmp_path) != undisturbed


def test_stopped_by_sigterm_and_resumed(command, undisturbed, tmp_path):
    words = ["SOLVER.CHECKPOINT_PERIOD", "5", "DATALOADER.NUM_WORKERS", "2"]
    child = start(command, tmp_path, *words)
    wait_for_start(child, tmp_path)
    os.killpg(child.pid, signal.SIGTERM)  # as a scheduler does: to the workers too
    assert child.wait(60) == EXIT_CODE, child.stderr.read()[-3000:]
    assert "stopped after iteration" in (tmp_path / "log.txt").read_text()
    assert len(list(tmp_path.glob("model_*.pth"))) == 1
    finish(start(command, tmp_path, "--resume", *words))
    assert digest(tmp_path) == undisturbed


@pytest.fixture(scope="module")
def undisturbed_pair(command, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("pair")
    finish(start(command, out, processes=2))
    return digest(out)


def test_two_processes_killed_and_resumed(command, undisturbed_pair, tmp_path):
    child = start(command, tmp_path, processes=2)
    wait_for_iteration(child, tmp_path, random.randrange(1, ITERATIONS - 3))
    for process in _family(child.pid):
        process.kill()
    child.wait()
    finish(start(command, tmp_path, "--resume", processes=2))
    assert digest(tmp_path) == undisturbed_pair


def test_two_processes_stopped_by_sigterm_save_once_together(command, undisturbed_pair, tmp_path):
    words = ["SOLVER.CHECKPOINT_PERIOD", "100"]
    child = start(command, tmp_path, *words, processes=2)
    wait_for_start(child, tmp_path)
    _family(child.pid)[-1].terminate()  # one of the two only
    assert child.wait(60) != 0
    saved = [path.name for path in tmp_path.glob("model_*.pth")]
    assert len(saved) == 1 and read_pointer(tmp_path) == saved[0]
    finish(start(command, tmp_path, "--resume", *words, processes=2))
    assert digest(tmp_path) == undisturbed_pair


def _family(pid: int) -> list[psutil.Process]:
    """torchrun and the processes of the job, without workers."""
    parent = psutil.Process(pid)
    return [parent, *sorted(parent.children(), key=lambda process: process.pid)]
