"""One function over many files: on several threads, results in order, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], description: str, num_workers: int | None = None
) -> list[Result]:
    """``[function(item) for item in items]``; decoding and encoding images leaves Python's lock to others.

    Args:
        num_workers: threads; by default one a core, at most 8. The result does not depend on it.
    """
    with ThreadPoolExecutor(num_workers or min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in tqdm(futures, desc=description, unit="image", disable=None)]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
