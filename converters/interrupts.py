"""Ctrl-C and SIGTERM that no library can swallow.

Python raises KeyboardInterrupt at any line; libraries catch it, or turn it into an error of their own. So a signal is
also stored here, and raised again at the next step.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, NoReturn, TypeVar

from vitedge.progress import Progress

Item = TypeVar("Item")

EXIT_TERMINATED = 128 + signal.SIGTERM

_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupts:
    """The signal that arrived last, if one did."""

    def __init__(self) -> None:
        self._arrived: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG002
        """Store the signal and raise its exception."""
        self._arrived = signal.Signals(number)
        self.check()
        raise AssertionError

    def check(self) -> None:
        """Raise the exception of the signal that arrived, if one did.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: for SIGTERM, with the exit code of a terminated process.
        """
        if self._arrived == signal.SIGINT:
            raise KeyboardInterrupt
        if self._arrived == signal.SIGTERM:
            raise SystemExit(EXIT_TERMINATED)


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Handle SIGINT and SIGTERM inside, in the main thread, unless the application handles them itself.

    An error after a signal is a consequence of the signal: the exception of the signal replaces it.
    """
    interrupts = Interrupts()
    with _handlers(interrupts.handle):
        try:
            yield interrupts
        except Exception:
            interrupts.check()
            raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore further signals inside, such as an impatient second Ctrl-C while files are removed."""
    with _handlers(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Let a signal that arrives inside take effect at the end, such as between making a folder and noting it."""
    arrived: list[int] = []
    with _handlers(lambda number, _: arrived.append(number)):
        yield
    if arrived:
        signal.raise_signal(arrived[-1])


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _DEFAULTS}
    ours = [number for number in before if _may_replace(before[number], number)]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _may_replace(handler: Any, number: signal.Signals) -> bool:
    if current_thread() is not main_thread():
        return False
    return handler == _DEFAULTS[number] or isinstance(getattr(handler, "__self__", None), Interrupts)


class Watched:
    """Progress that raises the exception of a swallowed signal at the next step or item."""

    def __init__(self, progress: Progress, interrupts: Interrupts) -> None:
        self._progress = progress
        self._interrupts = interrupts

    def step(self, text: str) -> None:
        """Pass the step on."""
        self._interrupts.check()
        self._progress.step(text)

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Pass the items on."""
        for item in self._progress.track(items, total=total, unit=unit):
            self._interrupts.check()
            yield item
