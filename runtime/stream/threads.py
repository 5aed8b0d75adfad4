"""``LastingThreads``: threads that open and read one connection of a source after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from vitedge.runtime.system.owned import start_daemon

T = TypeVar("T")


class LastingThreads(Generic[T]):
    """Daemon threads that work on one item after the other.

    A thread that is done waits for the next item, if no other thread does already. Memory allocators keep memory for
    each thread: a new thread for each connection would, now and then, keep the memory of another decoder.

    Args:
        name: name of the threads.
        work: works on an item, in one of the threads; it raises nothing.
        changed: guards the items; whoever changes what ``waits`` returns notifies it.
        waits: whether a thread that is done waits for the next item, rather than end.
    """

    def __init__(
        self, name: str, work: Callable[[T], None], changed: threading.Condition, *, waits: Callable[[], bool]
    ) -> None:
        self._name = name
        self._work = work
        self._changed = changed
        self._waits = waits
        self._items: deque[T] = deque()
        self._one_waits = False
        self._threads: list[threading.Thread] = []

    def begin(self, item: T) -> None:
        """Let the thread that waits work on an item, or else a new one.

        Raises:
            RuntimeError: the system starts no more threads.
        """
        with self._changed:
            if self._one_waits and not self._items:
                self._changed.notify_all()
            else:
                self._threads = [*self.alive(), start_daemon(self._name, self._serve)]
            self._items.append(item)

    def alive(self) -> list[threading.Thread]:
        """Return the threads that still run."""
        return [thread for thread in self._threads if thread.is_alive()]

    def _serve(self) -> None:
        while True:
            item = self._next()
            if item is None:
                return
            self._work(item)
            del item  # else it would keep the last picture while the thread waits

    def _next(self) -> T | None:
        with self._changed:
            if not self._items and not self._one_waits:
                self._one_waits = True
                self._changed.wait_for(lambda: self._items or not self._waits())
                self._one_waits = False
            return self._items.popleft() if self._items else None
