"""One training a folder: a second one that is started in the same OUTPUT_DIR ends before it writes anything."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from detectron2.utils import comm

from panoptic_plugin.errors import ConfigError

logger = logging.getLogger(__name__)

NAME = ".training.lock"
# Of a training that was killed a moment ago a process may be about to end.
PATIENCE = 10.0
# The answers where somebody else has the lock; all others are of a file system that has none.
IN_USE = (errno.EACCES, errno.EAGAIN)


@contextmanager
def only_training_in(folder: str | Path) -> Iterator[None]:
    """Hold ``folder/.training.lock`` while a training writes there.

    The lock is the operating system's: it goes with the process, however that ends, so that none has to be removed by
    hand; it holds among machines where the shared file system knows POSIX locks. All processes of a job call this.

    Args:
        folder: exists and can be written.

    Raises:
        ConfigError: a process of another training holds it; the message says which, where, and since when.
    """
    file, fault = None, ""
    if comm.is_main_process():
        try:
            file = _acquire(Path(folder) / NAME, time.monotonic() + PATIENCE)
        except ConfigError as error:
            fault = str(error)
    fault = comm.all_gather(fault)[0]
    if fault:
        raise ConfigError(fault)
    try:
        yield
    finally:
        if file is not None:
            file.truncate(0)
            file.close()


def _acquire(path: Path, deadline: float) -> IO[str] | None:
    """The file, locked until it is closed; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return None
    file = path.open("a+", encoding="utf-8")
    told = False
    while True:
        try:
            # Not flock, whose lock the workers of the data loader would inherit and keep for seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in IN_USE:
                logger.info("%s: the file system has no locks; see to it that one training writes here", path.parent)
                file.close()
                return None
            if time.monotonic() > deadline:
                raise ConfigError(_explained(path, file)) from None
            if not told:
                logger.warning("%s is in use by another training; waiting for its end", path.parent)
                told = True
            time.sleep(0.2)
    file.truncate(0)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.write(json.dumps(holder) + "\n")
    file.flush()
    return file


def _explained(path: Path, file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        who = f"process {holder['pid']} on {holder['host']} trains there since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process trains there"
    finally:
        file.close()
    return f"OUTPUT_DIR {path.parent} is in use: {who}; name another OUTPUT_DIR, or end that training first"
