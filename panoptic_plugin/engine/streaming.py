"""Reading, predicting and writing side by side: the model does not wait for a decoder, nor for a picture.

Order is kept everywhere, queues are short, and an exception in a worker comes out where its products are used.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
PATIENCE = 0.1  # seconds between looks at whether the other side is still there


class Prefetch(Generic[Item]):
    """Runs an iterable in a thread of its own, some items ahead.

    Args:
        items: what is iterated.
        size: at most so many items wait.
        live: the source does not wait, as a camera: when the queue is full, the oldest item is dropped.
    """

    def __init__(self, items: Iterable[Item], size: int, *, live: bool = False):
        self._items, self._live = items, live
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(max(1, size))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            kind, value = self._queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        """Stop reading; items that wait are dropped, and a loop over this ends."""
        self._closed.set()
        self._thread.join(timeout=5)
        while not self._queue.empty():
            _discard(self._queue)
        self._queue.put(("end", None))

    def _run(self) -> None:
        try:
            for item in self._items:
                self._put(("item", item), drop=self._live)
                if self._closed.is_set():
                    break
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, entry: tuple[str, Any], drop: bool = False) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(entry, timeout=0 if drop else PATIENCE)
            except queue.Full:
                if drop:
                    _discard(self._queue)


class Background(Generic[Item]):
    """Calls a function with one item after the other in a thread of its own.

    Args:
        function: what is called.
        size: :meth:`put` waits while so many items wait.
    """

    def __init__(self, function: Callable[[Item], None], size: int):
        self._function = function
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(max(1, size))
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand an item over; raises what the function raised for an earlier one."""
        while not self._try_to_put(("item", item)):
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Wait until all items are done, when interrupted for the one at hand; raises what the function raised."""
        try:
            while self._thread.is_alive() and not self._try_to_put(("end", None)):
                pass
            self._thread.join()
        except BaseException:
            self._abandoned.set()
            self._thread.join()
            raise
        if self._error is not None:
            raise self._error

    def _try_to_put(self, entry: tuple[str, Any]) -> bool:
        if self._error is not None:
            return False
        try:
            self._queue.put(entry, timeout=PATIENCE)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        try:
            while not self._abandoned.is_set():
                try:
                    kind, item = self._queue.get(timeout=PATIENCE)
                except queue.Empty:
                    continue
                if kind == "end":
                    return
                self._function(item)
        except BaseException as error:
            self._error = error


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items in order; the last one may be shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _discard(waiting: queue.Queue[Any]) -> None:
    with contextlib.suppress(queue.Empty):  # somebody else took it
        waiting.get_nowait()
