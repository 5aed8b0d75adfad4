"""Progress of long work: what library functions report to, and the terminal's rendering of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TextIO, TypeVar

Item = TypeVar("Item")

REDRAW_SECONDS = 0.1


class Progress(Protocol):
    """Receives the steps of long work."""

    def step(self, text: str) -> None:
        """A new step begins; ``text`` says what is being done."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Yield the items of the current step, reporting how many of ``total`` are done."""


class Silent:
    """Reports nothing; the default of library functions."""

    def step(self, text: str) -> None:
        """Ignore it."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:  # noqa: ARG002
        """Yield the items."""
        yield from items


class Terminal:
    """One line a step on a text stream; counters and remaining time are redrawn in place on a terminal only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._text = ""

    def step(self, text: str) -> None:
        """Print the step with the seconds since the start."""
        self._text = f"[{time.monotonic() - self._started:6.1f} s] {text}"
        self._stream.write(self._text + "\n")
        self._stream.flush()

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
            self._stream.write("\r\033[K")
            self._stream.flush()

    def _draw(self, done: int, total: int, unit: str, elapsed: float) -> None:
        left = f", {elapsed / done * (total - done):.0f} s left" if done else ""
        self._stream.write(f"\r\033[K           {done}/{total} {unit}{left}")
        self._stream.flush()
