"""A bounded queue between two threads that never leaves one waiting for the other after that one has gone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Item(Generic[T]):
    """An item out of a queue.

    Attributes:
        value: the value that the writer put in.
        dropped: number of values that were dropped since the previous item.
    """

    value: T
    dropped: int


class BoundedQueue(Generic[T]):
    """A queue from one writing thread to one or more reading threads, with an end that all of them see.

    Either side may leave at any time. The writer calls ``finish``, with the error that ended it if there was one; a
    reader gets that error after the values that came before it. The readers call ``stop``, after which ``put`` refuses.

    Args:
        capacity: largest number of values that wait.
        drop_oldest: what ``put`` does when the queue is full. False waits for a reader, so that nothing is lost. True
            drops the oldest value, so that a reader finds the newest.
    """

    def __init__(self, capacity: int, *, drop_oldest: bool) -> None:
        self._capacity = capacity
        self._drop_oldest = drop_oldest
        self._values: deque[T] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._finished = False
        self._stopped = False
        self._error: BaseException | None = None

    def put(self, value: T) -> bool:
        """Add a value, waiting for room unless the queue drops the oldest; False if the readers have gone."""
        with self._changed:
            if not self._drop_oldest:
                self._changed.wait_for(lambda: self._stopped or len(self._values) < self._capacity)
            elif len(self._values) == self._capacity:
                self._values.popleft()
                self._dropped += 1
            if self._stopped:
                return False
            self._values.append(value)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue as its writer; a reader that has taken what is left then gets ``error``."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def stop(self) -> tuple[T, ...]:
        """End the queue as a reader: discard and return what is left, and wake all who wait."""
        with self._changed:
            self._stopped = True
            discarded = tuple(self._values)
            self._values.clear()
            self._changed.notify_all()
        return discarded

    def get(self, timeout: float | None = None) -> Item[T] | None:
        """Wait for the next item and return it; None at the end.

        Args:
            timeout: seconds to wait; None waits until there is an item, the writer finishes or a reader stops.

        Raises:
            TimeoutError: no item came in time.
            BaseException: the error that the writer finished with.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_something, timeout):
                raise TimeoutError
            if self._values and not self._stopped:
                return self._take()
            error, self._error = self._error, None
        if error is not None and not self._stopped:
            raise error
        return None

    def __iter__(self) -> Iterator[T]:
        """Yield the values until the end, and raise the error that the writer finished with."""
        while (item := self.get()) is not None:
            yield item.value

    def _has_something(self) -> bool:
        return bool(self._values) or self._finished or self._stopped

    def _take(self) -> Item[T]:
        item = Item(self._values.popleft(), self._dropped)
        self._dropped = 0
        self._changed.notify_all()
        return item


def feed(values: Iterable[T], queue: BoundedQueue[T]) -> None:
    """Put every value into a queue and finish it, with the error if the values end in one.

    A thread of the stream runs this; it returns early when the readers have gone. It closes the values if they are a
    generator, because others may refer to it for long.
    """
    try:
        with closing(values) if isinstance(values, Generator) else nullcontext():
            for value in values:
                if not queue.put(value):
                    return
    except BaseException as error:  # noqa: BLE001  # whatever it is, the reader gets it, not this thread
        queue.finish(error)
    else:
        queue.finish()
