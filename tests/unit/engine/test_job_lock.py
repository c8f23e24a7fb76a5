"""Two trainings in one folder: the second one says who is there; a dead one blocks nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from panoptic_plugin.engine import job_lock
from panoptic_plugin.engine.job_lock import NAME, only_training_in
from panoptic_plugin.errors import ConfigError

# Locks are a process's own, so that another one has to hold it; it needs nothing of the package.
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.truncate(0)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def hold(tmp_path):
    started = []

    def _hold(text: str, seconds: float = 60):
        words = [sys.executable, "-c", HOLDER, str(tmp_path / NAME), text, str(seconds)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield _hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"host": "node7", "pid": 4321, "since": "2026-01-02 03:04:05"}', "process 4321 on node7 .* 03:04:05; name"),
        ("", "another process"),
        ("[1]", "another process"),
    ],
)
def test_a_second_training_is_told_of_the_first(hold, tmp_path, monkeypatch, text, named):
    hold(text)
    monkeypatch.setattr(job_lock, "PATIENCE", 0.0)
    with pytest.raises(ConfigError, match=rf"^OUTPUT_DIR {tmp_path} is in use: {named}"), only_training_in(tmp_path):
        pass
    assert (tmp_path / NAME).read_text() == text


def test_a_dead_training_blocks_nobody(hold, tmp_path, monkeypatch):
    process = hold('{"host": "here", "pid": 1, "since": "long ago"}')
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(job_lock, "PATIENCE", 0.0)
    with only_training_in(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / NAME).read_text()
    assert (tmp_path / NAME).read_text() == ""


def test_one_that_is_about_to_end_is_waited_for(hold, tmp_path):
    process = hold("", seconds=0.3)
    started = time.monotonic()
    with only_training_in(tmp_path):
        assert process.wait() == 0
    assert time.monotonic() - started < 5


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with only_training_in(tmp_path):
        pass
