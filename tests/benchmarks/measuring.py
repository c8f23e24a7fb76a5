"""Times and memory of two functions on the same input, taken in turns, because machines drift."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from peak_memory import peak_mib as peak_mib  # run.py finds the folder above


def interleaved(
    ours: Callable[[], Any],
    reference: Callable[[], Any],
    compare: Callable[[Any, Any], dict[str, Any]],
    *,
    rounds: int,
    ours_each: int = 5,
) -> dict[str, Any]:
    """Median CPU milliseconds of both, the median ratio of a round, and what ``compare(ours, reference)`` says.

    A round is one call of the reference and, after it, some of ours, of which the median counts.
    """
    ours_ms, reference_ms = [], []
    _, found = cpu_ms(ours)
    for _ in range(rounds):
        milliseconds, expected = cpu_ms(reference)
        reference_ms.append(milliseconds)
        ours_ms.append(statistics.median(cpu_ms(ours)[0] for _ in range(ours_each)))
    ratios = [theirs / own for theirs, own in zip(reference_ms, ours_ms, strict=True)]
    return {
        **compare(found, expected),
        "ours_ms": round(statistics.median(ours_ms), 2),
        "ours_min_ms": round(min(ours_ms), 2),
        "reference_ms": round(statistics.median(reference_ms), 1),
        "ratio": round(statistics.median(ratios), 2),
        "rounds": rounds,
    }


def cpu_ms(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU milliseconds of one call, and its result."""
    start = time.process_time()
    result = function()
    return (time.process_time() - start) * 1000, result
