"""Standard output and standard error, which may be closed, full, or a pipe without a reader."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from vitedge.errors import UsageError

_lost: list[OSError] = []


def prepare() -> None:
    """Make both streams writable, however the process was started.

    The next file to be opened would get the descriptor of a closed stream, and printing libraries would write into it.
    Letters that the locale cannot print become escapes.
    """
    _lost.clear()
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):  # writing to 1 fails, as it should
        if not _is_open(number):
            os.open(os.devnull, flags)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def write(text: str) -> None:
    """Write a result to standard output, all of it.

    Raises:
        UsageError: the stream cannot be written.
        BrokenPipeError: the reader has gone.
    """
    error = _attempt(sys.stdout, text)
    if isinstance(error, BrokenPipeError):
        raise error
    if error is not None:
        raise UsageError(
            f"standard output cannot be written: {error.strerror}", fix="free some space, or send it elsewhere"
        ) from error


def note(text: str) -> None:
    """Write to standard error. Text that cannot be written is lost, and ``finish`` returns False."""
    _attempt(sys.stderr, text)


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
