"""How every command ends: an exit code, and one line for a mistake that the user can mend."""

from __future__ import annotations

import errno
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable

import torch.distributed as dist

from panoptic_plugin.errors import UserError, one_line

USER_ERROR = 2
INTERRUPTED = 130
# Whatever is written, logs too, can meet a disk that is full or was mounted anew as read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# A path that was named cannot be made, read or written.
WRONG_PATH = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
logger = logging.getLogger(__name__)


def run_cli(run: Callable[[Namespace], int | None], args: Namespace) -> int:
    """Call ``run(args)``; a :class:`UserError` becomes one line ``error: ...`` on stderr.

    Returns:
        The exit code: that of ``run``, 2 for a mistake of the user, a path that cannot be used or a full disk, 130
        after Ctrl-C. All else passes.
    """
    try:
        return run(args) or 0
    except UserError as error:
        report_error(error)
        return USER_ERROR
    except OSError as error:
        report_error(UserError(_of_path(error)))
        logger.debug("", exc_info=True)
        return USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _of_path(error: OSError) -> str:
    """What to tell of an error of the file system; any other one is raised again."""
    if error.errno in FULL:
        file = error.filename or "a file"
        return f"cannot write {file}: {error.strerror}; make room, and go on with --resume where it is a training"
    if error.errno in WRONG_PATH and isinstance(error.filename, (str, bytes)):
        return f"cannot use {os.fsdecode(error.filename)}: {error.strerror}; check the path and its permissions"
    raise error


def report_error(error: UserError) -> None:
    """Write one line to stderr.

    Under torchrun all processes find the same mistakes until they have joined, so that only the main one speaks;
    later each does, and says its rank.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank and not dist.is_initialized():
        return
    prefix = f"error (process {rank})" if rank else "error"
    sys.stderr.write(f"{prefix}: {one_line(error)}\n")
    sys.stderr.flush()
