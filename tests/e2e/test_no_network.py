"""Importing, training and evaluating reach for no other machine, and need none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_training import job_environment, make_scenes, write_config

pytestmark = pytest.mark.slow

# Python tells an audit hook of every connection and every name that is looked up, also in the workers, which are
# forked. Sockets of the file system, by which workers hand over their batches, are no network.
GUARDED = """
import socket, sys
WATCHED = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
           "socket.gethostbyaddr")
def watch(event, arguments):
    if event in WATCHED and getattr(arguments[0], "family", None) != socket.AF_UNIX:
        with open(sys.argv[1], "a") as file:
            print(event, *map(repr, arguments), file=file)
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(watch)
"""
TRAIN = GUARDED + "from panoptic_plugin.cli.train import main; sys.exit(main(sys.argv[2:]))"
FETCH = GUARDED + "import urllib.request; urllib.request.urlopen(sys.argv[2])"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Path]:
    folder = make_scenes(tmp_path_factory.mktemp("scenes"), "cityscapes", num_val=1)
    with job_environment(folder):
        yield folder


def without_network() -> list[str]:
    """The start of a command that has no network interface at all, where this machine can do that."""
    prefix = ["unshare", "--map-root-user", "--net"]
    able = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if able else []


def run(code: str, report: Path, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    return subprocess.run([*prefix, sys.executable, "-c", code, str(report), *words], capture_output=True, text=True,
                          check=False, timeout=300, env={**os.environ, "NO_PROXY": "", "no_proxy": ""})  # fmt: skip


def test_a_training_and_its_evaluation_reach_for_no_machine(scenes, tmp_path):
    config = write_config(tmp_path, SOLVER__MAX_ITER=2, SOLVER__IMS_PER_BATCH=1, DATALOADER__NUM_WORKERS=2)
    words = ["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    done = run(TRAIN, tmp_path / "reached", *words, prefix=tuple(without_network()))
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "reached").exists(), (tmp_path / "reached").read_text()
    results = json.loads((tmp_path / "out" / "inference" / "metrics.json").read_text())["results"]
    assert "PQ" in results["panoptic_seg"]


def test_the_guard_sees_who_reaches_out(tmp_path):
    done = run(FETCH, tmp_path / "reached", "http://127.0.0.1:9/weights.pth")
    assert done.returncode != 0
    assert "127.0.0.1" in (tmp_path / "reached").read_text()


def test_weights_from_an_address_without_a_network_are_one_line(scenes, tmp_path):
    """And the address is warned of: it has no checksum; see test_checkpoint_history.py for those that have one."""
    config = write_config(tmp_path, MODEL__WEIGHTS="http://127.0.0.1:9/weights.pth", SOLVER__MAX_ITER=1)
    words = ["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    done = run(TRAIN, tmp_path / "reached", *words)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: http://127.0.0.1:9/weights.pth cannot be fetched") and "set MODEL.WEIGHTS" in last
