"""Progress of long work: the interface that library functions report to, and its rendering on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import repeat
from typing import Protocol, TextIO, TypeVar

from vitedge.safety.escape import terminal

Item = TypeVar("Item")

REDRAW_SECONDS = 0.1


class Progress(Protocol):
    """Receives the steps of long work."""

    def step(self, text: str) -> None:
        """Begin a new step, which ``text`` describes."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Yield the items of the current step, reporting how many of ``total`` are done."""


class Silent:
    """Reports nothing; the default of library functions."""

    def step(self, text: str) -> None:
        """Ignore the step."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:  # noqa: ARG002
        """Yield the items."""
        yield from items


class Terminal:
    """One line a step on a text stream; counters and remaining time are redrawn in place on a terminal only.

    Work continues if its progress cannot be written: text that a full disk or a closed pipe rejects is lost.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._started = time.monotonic()

    def step(self, text: str) -> None:
        """Print the step with the seconds since the start."""
        self._write(f"[{time.monotonic() - self._started:6.1f} s] {terminal(text)}\n")

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Yield the items; on a terminal, redraw the count and the remaining time."""
        if not self._live:
            yield from items
            return
        begun = drawn = time.monotonic()
        try:
            for done, item in enumerate(items):
                now = time.monotonic()
                if now - drawn >= REDRAW_SECONDS:
                    self._draw(done, total, unit, now - begun)
                    drawn = now
                yield item
        finally:
            self._write("\r\033[K")

    def _draw(self, done: int, total: int, unit: str, elapsed: float) -> None:
        left = f", {elapsed / done * (total - done):.0f} s left" if done else ""
        self._write(f"\r\033[K           {done}/{total} {terminal(unit)}{left}")

    def _write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class Counters:
    """Counters of a ``Progress`` for work that reports its steps itself, several counters at a time.

    Args:
        progress: receives the counters.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[object, Iterator[None]] = {}

    def begin(self, key: object, *, total: int, unit: str) -> None:
        """Open a counter, and close the counter that the key had before."""
        self.end(key)
        self._open[key] = iter(self._progress.track(repeat(None), total=total, unit=unit))

    def advance(self, key: object) -> None:
        """Count one more item as begun."""
        if key in self._open:
            next(self._open[key], None)

    def end(self, key: object) -> None:
        """Close a counter; a second call does nothing."""
        close = getattr(self._open.pop(key, None), "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the open counters, the last first."""
        for key in reversed(tuple(self._open)):
            self.end(key)
