"""Hands items from one thread to the next, and never leaves one waiting for another that has gone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Letter(Generic[Item]):
    """One item out of a mailbox.

    Attributes:
        item: what the writer put in.
        passed_over: how many items were replaced by newer ones since the letter before.
    """

    item: Item
    passed_over: int


class Mailbox(Generic[Item]):
    """A queue between a writing thread and one or more that read, with an end that all sides see.

    Either side may leave at any time: the writer with ``finish``, optionally with the error that ended it, which a
    reader gets after the items that came before it; the readers with ``stop``, after which ``put`` refuses.

    Args:
        capacity: how many items wait at most.
        replace: what ``put`` does when it is full: False waits for the reader (back-pressure, nothing is lost), True
            throws the oldest item away (the reader always finds the newest).
    """

    def __init__(self, capacity: int, *, replace: bool) -> None:
        self._capacity = capacity
        self._replace = replace
        self._items: deque[Item] = deque()
        self._passed_over = 0
        self._changed = threading.Condition()
        self._finished = False
        self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Add an item, waiting for room unless the mailbox replaces; False where the reader has gone."""
        with self._changed:
            if not self._replace:
                self._changed.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            elif len(self._items) == self._capacity:
                self._items.popleft()
                self._passed_over += 1
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """The writer is done; ``error`` is raised in the reader once it has taken what is left."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """The reader has gone: what is left is thrown away, and a writer that waits in ``put`` returns."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Letter[Item] | None:
        """The next item, waiting for it; None at the end.

        Args:
            timeout: seconds to wait; None waits for ever, which ends when the writer finishes or somebody stops.

        Raises:
            TimeoutError: nothing came in time.
            BaseException: what the writer finished with.
        """
        with self._changed:
            if not self._changed.wait_for(self._settled, timeout):
                raise TimeoutError
            if self._items and not self._stopped:
                return self._take()
            error, self._error = self._error, None
        if error is not None and not self._stopped:
            raise error
        return None

    def __iter__(self) -> Iterator[Item]:
        """The items until the end, raising what the writer finished with."""
        while (letter := self.get()) is not None:
            yield letter.item

    def _settled(self) -> bool:
        return bool(self._items) or self._finished or self._stopped

    def _take(self) -> Letter[Item]:
        letter = Letter(self._items.popleft(), self._passed_over)
        self._passed_over = 0
        self._changed.notify_all()
        return letter


def pump(items: Iterable[Item], mailbox: Mailbox[Item]) -> None:
    """Put every item into a mailbox and finish it, with the error that the items end in, if they do.

    This is what a thread of a pipeline runs; it returns early when the reader has gone.
    """
    try:
        for item in items:
            if not mailbox.put(item):
                return
    except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the reader, not to this thread
        mailbox.finish(error)
    else:
        mailbox.finish()
