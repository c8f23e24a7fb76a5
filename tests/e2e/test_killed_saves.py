"""A save that is killed at any moment, or that finds no room, leaves the checkpoints before it whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from panoptic_plugin.engine.checkpoint import PluginCheckpointer

MEGABYTES = 16
KILLS = 20

# Every line on its input is a step number to go on from: it forks a child that saves one step after the other, each
# filled with its own number, until it is killed. A fork saves importing PyTorch for each of the kills.
SAVER = f"""
import os, sys
import torch
import panoptic_plugin
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
torch.set_num_threads(1)
model = torch.nn.Linear({MEGABYTES} << 8, 1 << 10, bias=False)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        step = int(line)
        checkpointer = PluginCheckpointer(model, sys.argv[1])
        while True:
            step += 1
            torch.nn.init.constant_(model.weight, step)
            checkpointer.save("model_best", iteration=step)
            checkpointer.save(f"model_{{step:07d}}", iteration=step)
            for old in range(step - 2, step - 9, -1):
                if os.path.exists(f"{{sys.argv[1]}}/model_{{old:07d}}.pth"):
                    os.unlink(f"{{sys.argv[1]}}/model_{{old:07d}}.pth")
    print(child, flush=True)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_a_kill_at_any_byte_leaves_one_of_the_last_two_states(tmp_path):
    rng = random.Random(0)
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    model = nn.Linear(MEGABYTES << 8, 1 << 10, bias=False)
    step, torn = 0, 0
    try:
        assert saver.stdout.readline() == "ready\n"
        for _ in range(KILLS):
            saver.stdin.write(f"{step}\n")
            saver.stdin.flush()
            child = int(saver.stdout.readline())
            _wait_for_growth(tmp_path, rng.randrange(MEGABYTES << 20), after=step)
            os.kill(child, signal.SIGKILL)
            _wait_for_end(child)
            torn += any(tmp_path.glob(".*.tmp"))
            newest = max((int(path.stem[6:]) for path in tmp_path.glob("model_0*.pth")), default=step)
            resumed = PluginCheckpointer(model, str(tmp_path)).resume_or_load("")
            # The pointer is written after its file, so it may name the one before.
            assert resumed["iteration"] in (newest - 1, newest) and resumed["iteration"] >= step
            assert model.weight.eq(resumed["iteration"]).all()
            best = PluginCheckpointer(model).load(str(tmp_path / "model_best.pth"))
            assert model.weight.eq(best["iteration"]).all()
            assert not list(tmp_path.glob(".*.tmp"))
            step = resumed["iteration"]
    finally:
        saver.kill()
        saver.communicate()
    assert torn > KILLS // 4, "too few of the kills hit a save"


def _wait_for_growth(folder: Path, size: int, after: int) -> None:
    """Return in the middle of a save, once one state more has been saved than ``after``."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(int(path.stem[6:]) > after for path in folder.glob("model_0*.pth")):
            for path in folder.glob(".*.pth.tmp"):
                try:
                    if path.stat().st_size >= size:
                        return
                except FileNotFoundError:
                    pass
    raise AssertionError("nothing was saved in a minute")


def _wait_for_end(child: int) -> None:
    while True:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.001)


FULL_DISK = """
import resource, signal, sys
import torch
import panoptic_plugin
from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.engine.checkpoint import PluginCheckpointer
model = torch.nn.Linear(1 << 10, 1 << 10, bias=False)
checkpointer = PluginCheckpointer(model, sys.argv[1])
checkpointer.save("model_0000001", iteration=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.exit(run_cli(lambda args: checkpointer.save(args, iteration=2), sys.argv[2]))
"""


@pytest.mark.parametrize("name", ["model_0000001", "model_0000002"])
def test_a_full_disk_is_an_error_and_the_old_file_is_intact(name, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), name], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert f"cannot write {tmp_path / name}.pth" in ended.stderr and "untouched" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    model = nn.Linear(1 << 10, 1 << 10, bias=False)
    assert PluginCheckpointer(model, str(tmp_path)).resume_or_load("") == {"iteration": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    from panoptic_plugin.errors import CheckpointError

    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        PluginCheckpointer(torch.nn.Linear(1, 1), str(tmp_path / "locked")).save("model_0000001")
