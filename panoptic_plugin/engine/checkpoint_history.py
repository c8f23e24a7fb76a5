"""Which checkpoint of a folder a training goes on from, where the newest one may be damaged or gone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from panoptic_plugin.errors import CheckpointError

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
# The best model so far. It can be resumed from as well, but no pointer ever names it: it may be long behind.
BEST = "model_best"
MAX_NAME_BYTES = 1024
_PERIODIC = re.compile(r"model_(\d+)\.pth")


def read_pointer(folder: Path) -> str:
    """The file name in ``last_checkpoint``; "" where there is none, or where it names no file of this folder."""
    path = folder / POINTER
    try:
        if not path.is_file() or path.stat().st_size > MAX_NAME_BYTES:
            return ""
        name = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    if name and name != Path(name).name:
        logger.warning(
            "%s names %r, expected the name of a file beside it; looking for checkpoints instead",
            path,
            name,
        )
        return ""
    return name


def resume_candidates(folder: Path) -> list[Path]:
    """The checkpoints that a training writes, the one to try first in front.

    That is the one which ``last_checkpoint`` names, whether it exists or not; then the others by iteration, newest
    first; then the best model.
    """
    there = {path.name: path for path in folder.glob("model_*.pth")} if folder.is_dir() else {}
    periodic = sorted((name for name in there if _PERIODIC.fullmatch(name)), key=_iteration, reverse=True)
    names = [read_pointer(folder), "model_final.pth", *periodic, f"{BEST}.pth"]
    return [folder / name for name in dict.fromkeys(names) if name and (name in there or name == names[0])]


def _iteration(name: str) -> int:
    return int(_PERIODIC.fullmatch(name)[1])  # type: ignore[index]


def newest_readable(candidates: list[Path], read: Callable[[Path], Any]) -> tuple[Path, Any]:
    """The first of ``candidates`` that ``read`` accepts, and what it returned; a warning says what was passed over.

    Raises:
        CheckpointError: none can be read; the message has the fault of each.
    """
    faults: list[str] = []
    for path in candidates:
        try:
            content = read(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if faults:
            logger.warning(
                "Resuming from %s, because newer checkpoints cannot be used: %s", path.name, " | ".join(faults)
            )
        return path, content
    raise CheckpointError(
        f"no checkpoint in {candidates[0].parent} can be resumed from: {' | '.join(faults)} Put back a good copy, or "
        "start anew without --resume, in another OUTPUT_DIR"
    )


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed save has left: temporary files, which nothing ever reads."""
    for path in (*folder.glob(".model_*.pth.tmp"), *folder.glob(f".{POINTER}.tmp")):
        logger.info("Removing %s, left by a save that was killed", path)
        with suppress(OSError):  # what cannot be removed is never read anyway
            path.unlink(missing_ok=True)
