"""Standard output and standard error, which may be closed, full, or a pipe without a reader."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from vitedge.errors import OutputError
from vitedge.safety.redact import RedactingFilter, redact, redact_exception
from vitedge.terminal_style import mark

_lost: list[OSError] = []
_closed: set[int] = set()
"""Descriptors that were closed when the process started."""
_quiet = False


def prepare() -> None:
    """Make both streams writable, however the process was started.

    The next file to be opened would get the descriptor of a closed stream, and printing libraries would write into it.
    Letters that the locale cannot print become escapes.
    """
    _lost.clear()
    _closed.clear()
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):  # writing to 1 fails, as it should
        if not _is_open(number):
            _closed.add(number)
            os.open(os.devnull, flags)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _redact_reports()


def _redact_reports() -> None:
    """Mask secrets in what Python prints itself: tracebacks, and log records and warnings of any library."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = lambda _, error, trace: note(redact_exception(error.with_traceback(trace)))
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda failed: _note_failure("Exception in a thread:", failed.exc_value)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda ignored: _note_failure("Exception ignored:", ignored.exc_value)
    last = logging.lastResort
    if last is not None and not any(isinstance(each, RedactingFilter) for each in last.filters):
        last.addFilter(RedactingFilter())


def _note_failure(heading: str, error: BaseException | None) -> None:
    note(f"{heading}\n{'' if error is None else redact_exception(error)}")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def write(text: str) -> None:
    """Write a result to standard output, all of it.

    Raises:
        OutputError: the stream cannot be written.
        BrokenPipeError: the reader has gone.
    """
    error = _attempt(sys.stdout, text)
    if isinstance(error, BrokenPipeError):
        raise error
    if error is not None:
        raise OutputError(
            f"standard output cannot be written: {error.strerror}", fix="free some space, or send it elsewhere"
        ) from error


def tell(text: str) -> None:
    """Write to standard output what was done, where the result itself is a file; a caller who closed it wants no text.

    Raises:
        OutputError: the stream cannot be written.
        BrokenPipeError: the reader has gone.
    """
    if 1 not in _closed:
        write(text)


def note(text: str) -> None:
    """Write to standard error, without secrets. Text that cannot be written is lost, and ``finish`` returns False."""
    _attempt(sys.stderr, mark(redact(text), sys.stderr))


def inform(text: str) -> None:
    """Write to standard error what is neither a result nor an error; ``--quiet`` leaves it out."""
    if not _quiet:
        note(text)


@contextmanager
def quieted(quiet: bool) -> Iterator[None]:
    """Have ``inform`` write nothing inside."""
    global _quiet
    before, _quiet = _quiet, quiet
    try:
        yield
    finally:
        _quiet = before


def finish() -> bool:
    """Flush both streams, and return whether all text since ``prepare`` was written."""
    for stream in (sys.stdout, sys.stderr):
        _attempt(stream, "")
    return not _lost


def _attempt(stream: TextIO, text: str) -> OSError | None:
    try:
        if text:  # unbuffered, nothing would be written as well, and fail
            stream.write(text)
        stream.flush()
    except OSError as error:
        _lost.append(error)
        abandon(stream)
        return error
    return None


def abandon(stream: TextIO) -> None:
    """Redirect a stream to nowhere, so that Python does not complain at exit about text that it could not write."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
