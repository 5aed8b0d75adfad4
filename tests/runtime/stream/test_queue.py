"""Items arrive in order, the newest wins where it should, and nobody waits for a thread that has gone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.stream.queue import BoundedQueue, Item, feed

pytestmark = pytest.mark.timeout(30)

PATIENCE = 10.0


def started(target, *arguments) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


def test_items_arrive_in_order_and_then_the_end():
    queue: BoundedQueue[int] = BoundedQueue(2, drop_oldest=False)
    writer = started(feed, range(100), queue)
    assert list(queue) == list(range(100))
    assert queue.get() is None
    assert joined(writer)


def test_put_waits_for_room():
    queue: BoundedQueue[int] = BoundedQueue(2, drop_oldest=False)
    put = [queue.put(0), queue.put(1)]
    writer = started(lambda: put.append(queue.put(2)))
    writer.join(0.1)
    assert writer.is_alive()
    assert put == [True, True]
    assert queue.get() == Item(0, 0)
    assert joined(writer)
    assert put == [True, True, True]


def test_put_returns_when_the_reader_goes():
    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=False)
    queue.put(0)
    put: list[bool] = []
    writer = started(lambda: put.append(queue.put(1)))
    queue.stop()
    assert joined(writer)
    assert put == [False]
    assert queue.get() is None


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_nothing_is_put_after_the_reader_went(drop_oldest: bool):
    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=drop_oldest)
    queue.stop()
    assert not queue.put(0)


def test_get_returns_when_somebody_stops():
    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=False)
    got: list[object] = []
    reader = started(lambda: got.append(queue.get()))
    queue.stop()
    assert joined(reader)
    assert got == [None]


def test_get_gives_up_after_its_timeout():
    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=True)
    with pytest.raises(TimeoutError):
        queue.get(timeout=0.01)


def test_the_error_comes_after_the_items_and_once():
    queue: BoundedQueue[int] = BoundedQueue(3, drop_oldest=False)
    queue.put(0)
    queue.finish(OSError("unplugged"))
    assert queue.get() == Item(0, 0)
    with pytest.raises(OSError, match="unplugged"):
        queue.get()
    assert queue.get() is None


def test_an_error_that_nobody_waits_for_is_not_raised():
    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=False)
    queue.finish(OSError("unplugged"))
    queue.stop()
    assert queue.get() is None


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 3))
def test_a_queue_that_drops_the_oldest_keeps_the_newest_and_counts_the_rest(puts: list[bool], capacity: int):
    queue: BoundedQueue[int] = BoundedQueue(capacity, drop_oldest=True)
    expected: deque[int] = deque(maxlen=capacity)
    sent = dropped = received = 0
    for is_put in puts:
        if is_put:
            expected.append(sent)
            assert queue.put(sent)
            sent += 1
        elif expected:
            item = queue.get()
            assert item is not None
            assert item.value == expected.popleft()
            dropped += item.dropped
            received += 1
            assert item.value == received + dropped - 1
    queue.finish()
    rest = []
    while (item := queue.get()) is not None:
        rest.append(item)
    assert received + dropped + len(rest) + sum(item.dropped for item in rest) == sent


def test_feed_hands_an_error_over_with_its_traceback():
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("unplugged")

    queue: BoundedQueue[int] = BoundedQueue(5, drop_oldest=False)
    feed(broken(), queue)
    items = iter(queue)
    assert next(items) == 1
    with pytest.raises(OSError, match="unplugged") as raised:
        next(items)
    assert "broken" in [entry.name for entry in raised.traceback]


def test_feed_stops_taking_items_when_the_reader_has_gone():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=False)
    writer = started(feed, endless(), queue)
    assert queue.get() is not None
    queue.stop()
    assert joined(writer)
    assert len(taken) <= 3
