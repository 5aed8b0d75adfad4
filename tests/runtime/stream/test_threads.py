"""Threads that last take one item after the other, and never wait where another does."""

from __future__ import annotations

import threading

import pytest
from streams import PATIENCE, until

from vitedge.runtime.stream.threads import LastingThreads

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


class Work:
    """Threads whose work on an item lasts until somebody ends it, and who had which."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.lasts = True
        self.by: dict[str, threading.Thread] = {}
        self.ends = {name: threading.Event() for name in ("first", "second", "third")}
        self.threads = LastingThreads("vitedge-reader", self._work, self.changed, waits=lambda: self.lasts)

    def _work(self, name: str) -> None:
        self.by[name] = threading.current_thread()
        self.ends[name].wait(PATIENCE)

    def begin(self, name: str) -> threading.Thread:
        self.threads.begin(name)
        assert until(lambda: name in self.by)
        return self.by[name]

    def end(self, name: str) -> None:
        self.ends[name].set()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.lasts = False
            self.changed.notify_all()
        for each in self.ends.values():
            each.set()
        assert until(lambda: not self.threads.alive())


def test_one_thread_takes_one_item_after_the_other():
    with Work() as work:
        first = work.begin("first")
        work.end("first")
        assert until(lambda: work.threads._one_waits)
        assert work.begin("second") is first
        assert work.threads.alive() == [first]


def test_an_item_never_waits_for_a_thread_that_works():
    with Work() as work:
        first = work.begin("first")
        assert work.begin("second") is not first


def test_no_two_threads_wait():
    with Work() as work:
        first, second = work.begin("first"), work.begin("second")
        work.end("second")
        assert until(lambda: work.threads._one_waits)
        work.end("first")
        assert until(lambda: work.threads.alive() == [second])
        assert work.begin("third") is second
        first.join(PATIENCE)


def test_threads_end_when_no_item_will_come():
    with Work() as work:
        work.begin("first")
        work.lasts = False
        work.end("first")
        assert until(lambda: not work.threads.alive())
