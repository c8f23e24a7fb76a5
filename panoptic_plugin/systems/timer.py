"""Wall-clock time of the stages of inference, for ``BENCHMARK_NETWORK_SPEED``."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The first calls pay for memory pools and kernel selection; they are left out once there are others.
WARMUP_CALLS = 3


class StageTimer:
    """Milliseconds an image of named stages. A timer that is not enabled costs nothing and records nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._milliseconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def measure(self, stage: str, device: torch.device, num_images: int) -> Iterator[None]:
        """Time the block, waiting for the device before and after it where it is a GPU."""
        if not self.enabled:
            yield
            return
        _wait_for(device)
        start = time.perf_counter()
        yield
        _wait_for(device)
        self._milliseconds[stage].append((time.perf_counter() - start) * 1000 / num_images)

    def reset(self) -> None:
        """Forget everything measured."""
        self._milliseconds.clear()

    def summary(self) -> dict[str, float]:
        """``<stage>_ms_mean`` and ``<stage>_ms_median`` an image, ``images_per_second`` and ``num_calls``; {} if none.

        ``images_per_second`` is of all stages one after another, from their medians.
        """
        if not self._milliseconds:
            return {}
        figures: dict[str, float] = {}
        for stage, times in self._milliseconds.items():
            settled = times[WARMUP_CALLS:] or times
            figures[f"{stage}_ms_mean"] = statistics.fmean(settled)
            figures[f"{stage}_ms_median"] = statistics.median(settled)
        total = sum(value for name, value in figures.items() if name.endswith("_median"))
        figures["images_per_second"] = 1000 / total if total > 0 else 0.0
        figures["num_calls"] = len(next(iter(self._milliseconds.values())))
        return figures


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
