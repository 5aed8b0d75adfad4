"""Counters on a terminal: bars of ``rich``, which the extra ``convert`` brings, or one line that is redrawn.

A device needs no ``rich``: it shows the count and the remaining time alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol, TextIO

from vitedge.terminal_style import has_color

CLEAR_LINE = "\r\033[K"
_INDENT = " " * 10


class Bars(Protocol):
    """Shows counters, by their keys."""

    def draw(self, key: object, done: int, total: int, text: str) -> None:
        """Show a counter, which ``text`` describes."""

    def print(self, line: str) -> None:
        """Print a line above the counters."""

    def remove(self, key: object) -> None:
        """Show a counter no more."""


def open_bars(stream: TextIO) -> Bars:
    """Return bars of rich if it is installed, a redrawn line otherwise."""
    try:
        return RichBars(stream)
    except ImportError:
        return RedrawnLine(stream)


class RedrawnLine:
    """The counter that was drawn last, on one line.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def draw(self, key: object, done: int, total: int, text: str) -> None:  # noqa: ARG002
        """Redraw the line."""
        self._write(f"{CLEAR_LINE}{_INDENT} {text}")

    def print(self, line: str) -> None:
        """Print a line in place of the counter."""
        self._write(f"{CLEAR_LINE}{line}\n")

    def remove(self, key: object) -> None:  # noqa: ARG002
        """Clear the line."""
        self._write(CLEAR_LINE)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class RichBars:
    """A bar for each counter.

    Args:
        stream: a terminal.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, no_color=not has_color(stream))
        self._progress = Progress(
            TextColumn(_INDENT),
            BarColumn(24),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            auto_refresh=False,  # a thread would draw after an interrupt
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[object, Any] = {}

    def draw(self, key: object, done: int, total: int, text: str) -> None:
        """Draw the bars again."""
        with suppress(OSError):
            if key not in self._tasks:
                self._start()
                self._tasks[key] = self._progress.add_task(text, total=total)
            self._progress.update(self._tasks[key], completed=done, description=text, refresh=True)

    def _start(self) -> None:
        if not self._tasks:
            self._progress.start()
            self._console.show_cursor(True)  # a process that is killed leaves a terminal with its cursor

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        with suppress(OSError):
            if self._tasks:
                self._progress.stop()
            self._stream.write(f"{line}\n")
            self._stream.flush()
            if self._tasks:
                self._progress.start()
                self._console.show_cursor(True)

    def remove(self, key: object) -> None:
        """Remove the bar, and clear its line."""
        with suppress(OSError):
            task = self._tasks.pop(key, None)
            if task is None:
                return
            self._progress.remove_task(task)
            if not self._tasks:
                self._progress.stop()
