"""Workers keep the order, wait for each other, and hand their exceptions over."""

from __future__ import annotations

import threading
import time

import pytest

from panoptic_plugin.engine.streaming import Background, Prefetch, batches


def test_prefetch_keeps_order_and_runs_ahead_by_its_size():
    made = []

    def numbers():
        for number in range(20):
            made.append(number)
            yield number

    items = iter(Prefetch(numbers(), 3))
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= 6
    assert [0, *items] == list(range(20))


def test_prefetch_hands_exceptions_over_after_what_came_before():
    def failing():
        yield 1
        raise OSError("disk")

    items = iter(Prefetch(failing(), 2))
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


def test_prefetch_can_be_closed_early():
    prefetch = Prefetch(iter(range(10**9)), 2)
    assert next(iter(prefetch)) == 0
    prefetch.close()
    assert not prefetch._thread.is_alive()
    assert list(prefetch) == []


def test_live_drops_what_is_too_late():
    ended = threading.Event()

    def camera():
        yield from range(50)
        ended.set()

    prefetch = Prefetch(camera(), 1, live=True)
    assert ended.wait(5)
    assert list(prefetch)[-1:] == [49]


def test_background_does_all_in_order():
    done = []
    background = Background(done.append, 2)
    for number in range(30):
        background.put(number)
    background.close()
    assert done == list(range(30))


def test_background_waits_when_its_queue_is_full():
    gate = threading.Event()
    background = Background(lambda _: gate.wait(5), 1)
    background.put(0)
    background.put(1)
    threading.Timer(0.2, gate.set).start()
    started = time.monotonic()
    background.put(2)
    assert time.monotonic() - started > 0.1
    background.close()


def test_background_raises_what_its_function_raised():
    def fail(number):
        raise OSError(f"disk {number}")

    background = Background(fail, 1)
    with pytest.raises(OSError, match="disk 0"):
        for number in range(5):
            background.put(number)
    with pytest.raises(OSError, match="disk 0"):
        background.close()


def test_batches():
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []
