"""Losses that stay on their device until they are read, many iterations at once.

Reading a number from a GPU makes the host wait until the GPU has come to it, and so leaves the GPU without work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage


@dataclass(frozen=True)
class _Entry:
    iteration: int
    names: tuple[str, ...]
    values: torch.Tensor  # float (len(names) + 1,) on the device: the losses, then the norm of the gradient
    data_time: float
    images: list[str]


class LossLog:
    """Holds the losses of the iterations since the last :meth:`read`."""

    def __init__(self, *, overflow_allowed: bool) -> None:
        """
        Args:
            overflow_allowed: a gradient may be infinite, because the optimizer's step is then skipped (float16).
        """
        self.overflow_allowed = overflow_allowed
        self._entries: list[_Entry] = []

    def record(
        self,
        iteration: int,
        losses: Mapping[str, torch.Tensor],
        gradient_norm: torch.Tensor,
        data_time: float,
        batch: Any,
    ) -> None:
        """Keep what one iteration gave; nothing waits for the device.

        Args:
            iteration: its number.
            losses: scalars by name, of this process.
            gradient_norm: scalar, of the gradient of all processes.
            data_time: seconds spent waiting for the batch.
            batch: the samples; their ``file_name`` is named where a loss is not finite.
        """
        values = torch.stack([*(loss.detach().float() for loss in losses.values()), gradient_norm.float()])
        self._entries.append(_Entry(iteration, tuple(losses), values, data_time, file_names(batch)))

    def read(self) -> None:
        """Gather what was recorded over the processes, check it, and log it on the main one.

        All processes must call it after the same iteration. Logged are mean losses and the longest wait for data.

        Raises:
            FloatingPointError: a loss or gradient is not finite; names the first such iteration, its losses and images.
        """
        entries, self._entries = self._entries, []
        if not entries:
            return
        own = torch.stack([entry.values for entry in entries]).tolist()  # the one copy to the host
        gathered = comm.all_gather((own, [entry.data_time for entry in entries]))
        for index, entry in enumerate(entries):
            columns = zip(*(values[index] for values, _ in gathered), strict=True)
            means = [math.fsum(column) / len(gathered) for column in columns]
            # The norm is that of all processes already; float16 gradients overflow now and then.
            checked = means[:-1] if self.overflow_allowed else means
            if not all(map(math.isfinite, checked)):
                _raise_not_finite(entry, means, own[index])
            if comm.is_main_process():
                _write(entry, means, max(waits[index] for _, waits in gathered))


def _write(entry: _Entry, means: Sequence[float], data_time: float) -> None:
    """Log one iteration under its own number."""
    storage = get_event_storage()
    current = storage.iter
    storage.iter = entry.iteration
    try:
        _put(storage, dict(zip(entry.names, means, strict=False)), means[-1], data_time)
    finally:
        storage.iter = current


def _put(storage: EventStorage, losses: Mapping[str, float], gradient_norm: float, data_time: float) -> None:
    storage.put_scalar("data_time", data_time)
    storage.put_scalar("total_loss", sum(losses.values()))
    if len(losses) > 1:
        storage.put_scalars(**losses)
    if math.isfinite(gradient_norm):
        storage.put_scalar("grad_norm", gradient_norm)


def _raise_not_finite(entry: _Entry, means: Sequence[float], own: Sequence[float]) -> None:
    gathered = comm.all_gather((entry.images, not all(map(math.isfinite, own[:-1]))))
    spoilt = [name for images, of_loss in gathered if of_loss for name in images]
    # A gradient is that of all processes: where no loss is at fault, any image may be.
    images = spoilt or [name for images, _ in gathered for name in images]
    listed = ", ".join(f"{name} {value:.6g}" for name, value in zip(entry.names, means, strict=False))
    raise FloatingPointError(
        f"a loss or gradient became infinite or NaN at iteration={entry.iteration}: {listed}, gradient norm "
        f"{means[-1]:.6g}; no weight was changed. Where no image is at fault lower SOLVER.BASE_LR, or clip the "
        "gradients (SOLVER.CLIP_GRADIENTS). "
        f"{'Images with such a loss' if spoilt else 'All losses are finite; images of the iteration'}: "
        f"{', '.join(images) or 'unnamed'}"
    )


def file_names(batch: Any) -> list[str]:
    samples = batch if isinstance(batch, Sequence) else [batch]
    return [str(sample.get("file_name", "unnamed")) for sample in samples if isinstance(sample, Mapping)]
