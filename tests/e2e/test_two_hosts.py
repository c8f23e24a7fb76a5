"""Two machines, made of two network namespaces with a cable between: train together, lose the cable, go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_training import job_environment, make_scenes, write_config

from panoptic_plugin.engine.chaos import digest
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import read_pointer
from panoptic_plugin.engine.manifest import FILE_NAME, read_starts

pytestmark = pytest.mark.slow

TIMEOUT = 10
ITERATIONS = 16
HOSTS = [f"panoptic{os.getpid()}{letter}" for letter in "ab"]
DEVICES = [f"pan{os.getpid() % 10**8}{letter}" for letter in "ab"]
ADDRESSES = ["10.77.0.1", "10.77.0.2"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def remove() -> None:
    for host in HOSTS:  # their ends of the cable go with them
        subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


@pytest.fixture
def hosts() -> Iterator[None]:
    if shutil.which("ip") is None:
        pytest.skip("there is no 'ip' to make network namespaces with")
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", DEVICES[0], "type", "veth", "peer", "name", DEVICES[1])
        for host, device, address in zip(HOSTS, DEVICES, ADDRESSES, strict=True):
            ip("link", "set", device, "netns", host)
            ip("-n", host, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", host, "link", "set", device, "up")
            ip("-n", host, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        remove()
        pytest.skip(f"this user may make no network namespaces: {error.stderr.decode().strip()}")
    yield
    remove()


@pytest.fixture
def words(tmp_path, repository) -> Iterator[list[str]]:
    changes = {"SOLVER__MAX_ITER": ITERATIONS, "SOLVER__CHECKPOINT_PERIOD": 1, "DISTRIBUTED__TIMEOUT": TIMEOUT}
    with job_environment(make_scenes(tmp_path / "scenes", "cityscapes", num_val=1)):
        config = write_config(tmp_path, DATASETS__TEST=[], **changes)
        yield [str(repository / "train_panoptic_deeplab.py"), "--config-file", str(config), "--num-gpus", "0"]


def start(number: int, words: list[str]) -> subprocess.Popen:
    """torchrun with one process on host ``number``; gloo is told which network to use."""
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number), "--master-addr", ADDRESSES[0]]
    command = [sys.executable, "-m", "torch.distributed.run", *meet, "--master-port", "29500", *words]
    return subprocess.Popen(["ip", "netns", "exec", HOSTS[number], *command], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "GLOO_SOCKET_IFNAME": DEVICES[number]})  # fmt: skip


def wait_for_iteration(out: Path, iteration: int, jobs: list[subprocess.Popen]) -> None:
    while read_pointer(out) < f"model_{iteration:07d}.pth":
        assert all(job.poll() is None for job in jobs), [job.communicate()[1][-2000:] for job in jobs]
        time.sleep(0.005)


def test_two_hosts_lose_their_cable_and_go_on(hosts, words, tmp_path):
    out = tmp_path / "two"
    jobs = [start(number, [*words, "OUTPUT_DIR", str(out)]) for number in (0, 1)]
    try:
        wait_for_iteration(out, 2, jobs)
        ip("-n", HOSTS[1], "link", "set", DEVICES[1], "down")
        began = time.monotonic()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        one_machine = subprocess.Popen([sys.executable, *torchrun, *words, "OUTPUT_DIR", str(tmp_path / "one")],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        assert all(job.wait(TIMEOUT + 40) != 0 for job in jobs)
        assert time.monotonic() - began < TIMEOUT + 20
    finally:
        for job in jobs:
            job.kill()
    reached = load_checkpoint_file(out / read_pointer(out))["iteration"]
    assert reached < ITERATIONS - 1

    ip("-n", HOSTS[1], "link", "set", DEVICES[1], "up")
    jobs = [start(number, [*words, "--resume", "OUTPUT_DIR", str(out)]) for number in (0, 1)]
    for job in jobs:
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors[-3000:]
    starts = read_starts(out / FILE_NAME)
    assert [(begun["start_iteration"], begun["world_size"]) for begun in starts] == [(0, 2), (reached + 1, 2)]

    assert one_machine.wait(120) == 0
    assert digest(out / "model_final.pth") == digest(tmp_path / "one" / "model_final.pth")
