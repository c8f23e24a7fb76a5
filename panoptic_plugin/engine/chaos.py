"""What can happen to a training, chosen by a seed: how its processes end, and what becomes of its newest checkpoint."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import POINTER, resume_candidates
from panoptic_plugin.errors import CheckpointError

# How often, of all disturbances, a checkpoint is damaged too; and the processes are disturbed while they start.
DAMAGE_SHARE = 0.6
START_SHARE = 0.15
LONGEST_START = 12.0  # seconds


@dataclass(frozen=True)
class Disturbance:
    """One interruption of a training.

    Attributes:
        end: how it comes: "kill all", "kill one" (one of several processes), "kill worker" (of the data loader) or
            "terminate" (SIGTERM to the process that was started).
        num_saves: checkpoints that the training may write before it; 0 disturbs it while it starts.
        delay: after that, in seconds while it starts, else in times between two checkpoints.
        damage: what then becomes of the newest checkpoint, a key of :data:`DAMAGES`; "" for nothing.
        seed: of the details, such as which byte.
    """

    end: str
    num_saves: int
    delay: float
    damage: str
    seed: int


def plan(seed: int, *, processes: int, workers: int, max_saves: int) -> Iterator[Disturbance]:
    """Disturbances without end, the same for the same arguments.

    Args:
        seed: of the choice.
        processes: of the training; from two on, one of them may be killed alone.
        workers: of the data loader, each process; where there are any, one may be killed.
        max_saves: most checkpoints between two disturbances.
    """
    rng = random.Random(seed)
    ends = ["kill all", "kill all", "terminate"]
    ends += ["kill one"] * 2 * (processes > 1) + ["kill worker"] * (workers > 0)
    while True:
        starting = rng.random() < START_SHARE
        yield Disturbance(
            end=rng.choice(["kill all", "terminate"] if starting else ends),
            num_saves=0 if starting else rng.randint(1, max_saves),
            delay=rng.random() * (LONGEST_START if starting else 2),
            damage=rng.choice(sorted(DAMAGES)) if rng.random() < DAMAGE_SHARE else "",
            seed=rng.getrandbits(32),
        )


def damage_newest(folder: Path, kind: str, seed: int) -> str:
    """Damage the checkpoint that a training in ``folder`` would resume from.

    Args:
        folder: ``OUTPUT_DIR``.
        kind: a key of :data:`DAMAGES`.
        seed: of the details.

    Returns:
        What was done, in words; "" where nothing was, because it would have left no good checkpoint.
    """
    there = [path for path in resume_candidates(folder) if path.is_file()]
    needed = 1 if "pointer" in kind else 2
    if not _at_least(needed, there):
        return ""
    target = folder / POINTER if "pointer" in kind else there[0]
    return f"{target.name}: {DAMAGES[kind](target, random.Random(seed))}"


def _at_least(number: int, paths: list[Path]) -> bool:
    for path in paths:
        try:
            load_checkpoint_file(path)
            number -= 1
        except CheckpointError:
            pass
        if number <= 0:
            return True
    return False


def _truncate(path: Path, rng: random.Random) -> str:
    size = path.stat().st_size
    kept = rng.randrange(size)
    with path.open("r+b") as file:
        file.truncate(kept)
    return f"cut to {kept:,} of {size:,} bytes"


def _flip(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place:,} flipped"


def _zero(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    length = min(rng.choice([512, 4096, len(content)]), len(content) - start)
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return f"{length:,} bytes from {start:,} on are zero"


def _delete(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "deleted"


def _empty(path: Path, rng: random.Random) -> str:
    path.write_bytes(b"")
    return "emptied"


def _mislead(path: Path, rng: random.Random) -> str:
    name = rng.choice(["model_9999999.pth", "../outside.pth", "no such file", "\0\ufffd"])
    path.write_text(name, encoding="utf-8")
    return f"names {name!r}"


DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "truncate": _truncate,
    "flip": _flip,
    "zero": _zero,
    "delete": _delete,
    "empty": _empty,
    "empty pointer": _empty,
    "wrong pointer": _mislead,
}


def digest(path: Path) -> str:
    """SHA-256 of all that a checkpoint holds about a training: weights, averages, optimizer, schedule, counters.

    Raises:
        CheckpointError: it cannot be read, or is none of a training.
    """
    content = load_checkpoint_file(path)
    if "trainer" not in content:
        raise CheckpointError(f"{path} holds no state of a training, expected a checkpoint that one has written")
    trainer = content["trainer"]
    parts = {name: content[name] for name in ("model", "ema", "iteration") if name in content}
    parts.update(step=trainer["_trainer"], schedule=trainer["hooks"]["LRScheduler"], data=trainer["data"])
    found = hashlib.sha256()
    for piece in _pieces(parts):
        found.update(piece)
    return found.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield f"{name}:".encode()
            yield from _pieces(value[name])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    else:
        yield repr(value).encode()


def plural(number: int, noun: str) -> str:
    """Such as "1 kill" and "2 kills"."""
    return f"{number} {noun}{'s' * (number != 1)}"
