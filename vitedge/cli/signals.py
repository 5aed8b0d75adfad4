"""SIGINT, SIGTERM and SIGHUP end a stream: files are finished, and the exit code says which signal it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from vitedge.cli import EXIT_INTERRUPTED
from vitedge.prediction import Prediction

EXIT_CODES = {
    signal.SIGINT: EXIT_INTERRUPTED,
    signal.SIGTERM: 0,  # how systemd and docker stop a service, which then has not failed
    signal.SIGHUP: 128 + signal.SIGHUP,
}
SAME_SECONDS = 0.3
"""``timeout`` and process managers send a signal to a process and again to its group; that is one request."""


OVERDUE_SECONDS = 0.5
"""After a signal, an output may take so long for its last prediction; a pipe may have a reader that does not read."""


class Stop:
    """A request to end, once it has come; an output, so that no library can swallow the request.

    Attributes:
        overdue: whether an output did not take its last prediction in time.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._since = 0.0
        self._end: Callable[[], object] | None = None
        self._alarm: Any = None
        self.overdue = False

    @property
    def requested(self) -> bool:
        """Return whether a signal has come."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """Exit code for the signal that came; Python raises KeyboardInterrupt by itself where none did."""
        return EXIT_INTERRUPTED if self._signal is None else EXIT_CODES[self._signal]

    @contextmanager
    def ends(self, end: Callable[[], object]) -> Iterator[None]:
        """Call a function for the first signal inside, instead of raising KeyboardInterrupt.

        So all outputs get the same predictions. An output that blocks is interrupted after ``OVERDUE_SECONDS``.

        Args:
            end: ends the predictions; it must be safe in a signal handler.
        """
        self._end = end
        try:
            yield
        finally:
            self._end = None
            self.close()

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End the predictions for the first signal; let a second one, somewhat later, end the process at once.

        Raises:
            KeyboardInterrupt: there are no predictions to end yet.
        """
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = signal.Signals(number), now
            if self._end is None:
                raise KeyboardInterrupt
            self._alarm = signal.signal(signal.SIGALRM, self.interrupt)
            signal.setitimer(signal.ITIMER_REAL, OVERDUE_SECONDS)
            self._end()
        elif now - self._since > SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Interrupt an output that blocks.

        Raises:
            KeyboardInterrupt: always.
        """
        self.overdue = True
        raise KeyboardInterrupt

    def write(self, prediction: Prediction) -> None:  # noqa: ARG002
        """Raise again what a library may have swallowed; the last of the outputs, so that they are of equal length.

        Raises:
            KeyboardInterrupt: a signal has come.
        """
        if self._signal is not None:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Let the other outputs take as long as they need to finish."""
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._alarm)
            self._alarm = None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle the signals inside; signals that the parent process ignores, as ``nohup`` does, stay ignored."""
    stop = Stop()
    handled = [number for number in EXIT_CODES if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {}
    if current_thread() is main_thread():
        previous = {number: signal.signal(number, stop.handle) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
