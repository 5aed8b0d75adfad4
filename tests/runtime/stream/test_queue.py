"""Items arrive in order, the newest wins where it should, and nobody waits for a thread that has gone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.stream.queue import Letter, Mailbox, pump

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
    mailbox: Mailbox[int] = Mailbox(2, replace=False)
    writer = started(pump, range(100), mailbox)
    assert list(mailbox) == list(range(100))
    assert mailbox.get() is None
    assert joined(writer)


def test_put_waits_for_room():
    mailbox: Mailbox[int] = Mailbox(2, replace=False)
    put = [mailbox.put(0), mailbox.put(1)]
    writer = started(lambda: put.append(mailbox.put(2)))
    writer.join(0.1)
    assert writer.is_alive()
    assert put == [True, True]
    assert mailbox.get() == Letter(0, 0)
    assert joined(writer)
    assert put == [True, True, True]


def test_put_returns_when_the_reader_goes():
    mailbox: Mailbox[int] = Mailbox(1, replace=False)
    mailbox.put(0)
    put: list[bool] = []
    writer = started(lambda: put.append(mailbox.put(1)))
    mailbox.stop()
    assert joined(writer)
    assert put == [False]
    assert mailbox.get() is None


@pytest.mark.parametrize("replace", [False, True])
def test_nothing_is_put_after_the_reader_went(replace: bool):
    mailbox: Mailbox[int] = Mailbox(1, replace=replace)
    mailbox.stop()
    assert not mailbox.put(0)


def test_get_returns_when_somebody_stops():
    mailbox: Mailbox[int] = Mailbox(1, replace=False)
    got: list[object] = []
    reader = started(lambda: got.append(mailbox.get()))
    mailbox.stop()
    assert joined(reader)
    assert got == [None]


def test_get_gives_up_after_its_timeout():
    mailbox: Mailbox[int] = Mailbox(1, replace=True)
    with pytest.raises(TimeoutError):
        mailbox.get(timeout=0.01)


def test_the_error_comes_after_the_items_and_once():
    mailbox: Mailbox[int] = Mailbox(3, replace=False)
    mailbox.put(0)
    mailbox.finish(OSError("unplugged"))
    assert mailbox.get() == Letter(0, 0)
    with pytest.raises(OSError, match="unplugged"):
        mailbox.get()
    assert mailbox.get() is None


def test_an_error_that_nobody_waits_for_is_not_raised():
    mailbox: Mailbox[int] = Mailbox(1, replace=False)
    mailbox.finish(OSError("unplugged"))
    mailbox.stop()
    assert mailbox.get() is None


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 3))
def test_a_replacing_mailbox_keeps_the_newest_and_counts_the_rest(puts: list[bool], capacity: int):
    mailbox: Mailbox[int] = Mailbox(capacity, replace=True)
    expected: deque[int] = deque(maxlen=capacity)
    sent = passed_over = received = 0
    for is_put in puts:
        if is_put:
            expected.append(sent)
            assert mailbox.put(sent)
            sent += 1
        elif expected:
            letter = mailbox.get()
            assert letter is not None
            assert letter.item == expected.popleft()
            passed_over += letter.passed_over
            received += 1
            assert letter.item == received + passed_over - 1
    mailbox.finish()
    rest = []
    while (letter := mailbox.get()) is not None:
        rest.append(letter)
    assert received + passed_over + len(rest) + sum(letter.passed_over for letter in rest) == sent


def test_pump_hands_an_error_over_with_its_traceback():
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("unplugged")

    mailbox: Mailbox[int] = Mailbox(5, replace=False)
    pump(broken(), mailbox)
    items = iter(mailbox)
    assert next(items) == 1
    with pytest.raises(OSError, match="unplugged") as raised:
        next(items)
    assert "broken" in [entry.name for entry in raised.traceback]


def test_pump_stops_taking_items_when_the_reader_has_gone():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    mailbox: Mailbox[int] = Mailbox(1, replace=False)
    writer = started(pump, endless(), mailbox)
    assert mailbox.get() is not None
    mailbox.stop()
    assert joined(writer)
    assert len(taken) <= 3
