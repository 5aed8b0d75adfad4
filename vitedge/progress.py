"""Progress of long work: the interface that library functions report to, and its rendering on a terminal."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from typing import Protocol, TextIO, TypeVar

from vitedge.progress_bars import open_bars
from vitedge.safety.escape import terminal
from vitedge.terminal_style import is_live, mark

logger = logging.getLogger("vitedge")

Item = TypeVar("Item")

REDRAW_SECONDS = 0.1
REPORT_SECONDS = 25.0
CHECK_SECONDS = 5.0
"""Together with ``REPORT_SECONDS``: no silence is longer than 30 s."""
REMARKS = ("note:", "warning:")
"""How texts begin that are no step of their own."""


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
    """One line a step on a text stream.

    On a terminal, counters and remaining time are bars that are redrawn. Elsewhere, as in the log of a service, a long
    step prints a line every ``REPORT_SECONDS``; within ``reporting``, also while it computes in one piece. Texts that
    begin with ``note:`` or ``warning:`` are printed within the step that goes on. ``NO_COLOR``, ``FORCE_COLOR`` and
    ``TERM=dumb`` are obeyed.

    Work continues if its progress cannot be written: text that a full disk or a closed pipe rejects is lost.

    Args:
        stream: by default standard error.
        clock: returns seconds.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._bars = open_bars(self._stream) if is_live(self._stream) else None
        self._clock = clock
        self._started = self._spoken = clock()
        self._step = self._count = ""
        self._steps: list[tuple[str, float]] = []
        self._lock = threading.RLock()

    def step(self, text: str) -> None:
        """Print the step, or a note or warning within one, with the seconds since the start."""
        with self._lock:
            shown = terminal(text)
            if not shown.startswith(REMARKS):
                self._step, self._count = shown, ""
                self._steps.append((shown, self._clock()))
            self._print(shown)

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Yield the items, and show their count and the remaining time."""
        key = object()
        begun = drawn = self._clock()
        try:
            for done, item in enumerate(items):
                now = self._clock()
                with self._lock:
                    self._count = _count_text(done, total, unit, now - begun)
                    if self._bars is None:
                        self.remind()
                    elif now - drawn >= REDRAW_SECONDS:
                        self._bars.draw(key, done, total, self._count)
                        drawn = now
                yield item
        finally:
            with self._lock:
                self._count = ""
                if self._bars is not None:
                    self._bars.remove(key)

    def prepare(self, text: str) -> None:
        """Name the step for ``remind`` without printing it, because it is usually short; a step before it stays."""
        with self._lock:
            if not self._step:
                self._step, self._spoken = terminal(text), -math.inf

    def remind(self) -> None:
        """Print that the step goes on, if nothing was printed for a while; on a terminal, only if it never was."""
        with self._lock:
            quiet = self._clock() - self._spoken
            if self._step and quiet >= REPORT_SECONDS and not (self._bars is not None and math.isfinite(quiet)):
                self._print(f"still {self._step}{': ' if self._count else ''}{self._count}")

    def times(self) -> tuple[tuple[str, float], ...]:
        """Return the steps that were printed, in their order, each with the seconds until the next one or until now."""
        with self._lock:
            moments = [*(begun for _, begun in self._steps[1:]), self._clock()]
            return tuple((text, end - begun) for (text, begun), end in zip(self._steps, moments, strict=False))

    def _print(self, text: str) -> None:
        self._spoken = self._clock()
        line = mark(f"[{self._spoken - self._started:6.1f} s] {text}", self._stream)
        if self._bars is not None:
            self._bars.print(line)
            return
        with suppress(OSError):
            self._stream.write(f"{line}\n")
            self._stream.flush()


def _count_text(done: int, total: int, unit: str, elapsed: float) -> str:
    left = f", {elapsed / done * (total - done):.0f} s left" if done else ""
    return f"{done}/{total} {terminal(unit)}{left}"


@contextmanager
def reporting(progress: Progress, text: str = "") -> Iterator[None]:
    """Have a ``Terminal`` report that a step goes on, while a library computes in one piece; others are left alone.

    Args:
        progress: receives the steps.
        text: names a step that is printed only if it takes longer than ``CHECK_SECONDS``; empty names none.
    """
    if not isinstance(progress, Terminal):
        yield
        return
    if text:
        progress.prepare(text)
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(CHECK_SECONDS):
            progress.remind()

    thread = threading.Thread(target=remind, name="vitedge-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Guarded:
    """Passes everything on to a ``Progress``, until that fails: then the work goes on in silence.

    Args:
        progress: receives the steps and items.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._guard = _Guard()

    def step(self, text: str) -> None:
        """Pass the step on."""
        self._guard.call(partial(self._progress.step, text))

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Yield the items; an error of the items themselves is raised."""
        with Counters(self._progress) as counters:
            counters.begin(0, total=total, unit=unit)
            for item in items:
                counters.advance(0)
                yield item


class _Guard:
    """Calls functions until one fails."""

    def __init__(self) -> None:
        self._failed = False

    def call(self, function: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            function()
        except Exception:
            self._failed = True
            logger.warning("the progress cannot be shown any more; the work goes on", exc_info=True)


class Counters:
    """Counters of a ``Progress`` for work that reports its steps itself, several counters at a time, from any thread.

    A progress that fails is not called again, and the work goes on.

    Args:
        progress: receives the counters.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[object, Iterator[None]] = {}
        self._guard = _Guard()
        self._lock = threading.RLock()

    def begin(self, key: object, *, total: int, unit: str) -> None:
        """Open a counter, and close the counter that the key had before."""
        with self._lock:
            self.end(key)
            self._guard.call(partial(self._begin, key, total, unit))

    def advance(self, key: object) -> None:
        """Count one more item as begun."""
        with self._lock:
            if key in self._open:
                self._guard.call(partial(next, self._open[key], None))

    def end(self, key: object) -> None:
        """Close a counter; a second call does nothing."""
        with self._lock:
            close = getattr(self._open.pop(key, None), "close", None)
            if close is not None:
                self._guard.call(close)

    def _begin(self, key: object, total: int, unit: str) -> None:
        self._open[key] = iter(self._progress.track(repeat(None), total=total, unit=unit))

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the open counters, the last first."""
        with self._lock:
            for key in reversed(tuple(self._open)):
                self.end(key)
