"""Who is next: the newest value of each of several writers, taken in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

NO_VALUE: tuple[()] = ()


@dataclass
class _Writer(Generic[T]):
    """One writer.

    Attributes:
        interval: least seconds between two values, on average; 0 for no limit.
        waiting: its value, alone in a tuple; empty without one.
        due: time from which its next value is welcome, in seconds.
    """

    interval: float
    waiting: tuple[()] | tuple[T] = NO_VALUE
    due: float = float("-inf")


class Turns(Generic[T]):
    """One waiting value for each writer, and the order in which they are taken; not thread-safe.

    The next turn goes to the writer who has waited longest since its last one. A writer with a value therefore waits
    for at most one value of each other writer, whatever their rates. A writer without a value costs the others nothing.

    Args:
        max_rates: most values a second for each writer, by name; None for no limit.
    """

    def __init__(self, max_rates: Mapping[str, float | None]) -> None:
        self._writers = {name: _Writer[T](1.0 / rate if rate else 0.0) for name, rate in max_rates.items()}

    def __len__(self) -> int:
        """Return the number of writers with a value."""
        return sum(1 for writer in self._writers.values() if writer.waiting)

    def replace(self, name: str, value: T) -> T | None:
        """Put a newer value in the place of the one that waits, and return the older; None if none waits."""
        writer = self._writers[name]
        if not writer.waiting:
            return None
        older = writer.waiting[0]
        writer.waiting = (value,)
        return older

    def is_due(self, name: str, now: float) -> bool:
        """Decide whether the rate of a writer allows a value at the time ``now``, in seconds.

        A value may come early by half an interval, so that a writer that is a little too fast loses a value now and
        then, not every second one.
        """
        writer = self._writers[name]
        return now >= writer.due - writer.interval / 2

    def early(self, name: str, now: float) -> float:
        """Return the seconds until a writer's next value is due; 0 if it is."""
        return max(0.0, self._writers[name].due - now)

    def is_waiting(self, name: str) -> bool:
        """Return whether a value of a writer waits."""
        return bool(self._writers[name].waiting)

    def put(self, name: str, value: T, now: float) -> None:
        """Let a value wait, whose writer has none waiting and is due.

        The rate's rhythm goes on from a value that came in time, and begins again with one that came late.
        """
        writer = self._writers[name]
        in_time = now - writer.due < writer.interval / 2
        writer.due = (writer.due if in_time else now) + writer.interval
        writer.waiting = (value,)

    def waiting(self) -> Iterator[tuple[str, T]]:
        """Yield the values that wait and their writers, the next turn first."""
        for name, writer in self._writers.items():
            if writer.waiting:
                yield name, writer.waiting[0]

    def take(self, name: str) -> None:
        """Give a writer its turn: its value no longer waits, and all other writers come before it."""
        writer = self._writers.pop(name)
        writer.waiting = NO_VALUE
        self._writers[name] = writer

    def drop(self, name: str) -> None:
        """Drop the value of a writer, who keeps its place."""
        self._writers[name].waiting = NO_VALUE
