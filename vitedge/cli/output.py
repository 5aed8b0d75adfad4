"""Standard output and standard error, which may be closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO

from vitedge.errors import UsageError


def prepare() -> None:
    """Make both streams fit to be written to, whatever the process was started with.

    A number of a closed stream would go to the next file that is opened, and libraries that print would write into it.
    Letters that a locale cannot print become escapes.
    """
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
        UsageError: it cannot be written.
        BrokenPipeError: its reader has gone.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        abandon(sys.stdout)
        raise
    except OSError as error:
        abandon(sys.stdout)
        raise UsageError(
            f"standard output cannot be written: {error.strerror}", fix="free some space, or send it elsewhere"
        ) from error


def note(text: str) -> None:
    """Write to standard error. What cannot be written is lost, and ``finish`` says so."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def finish() -> OSError | None:
    """Flush both streams; the error, if something that was printed is lost."""
    errors = [_flush(stream) for stream in (sys.stdout, sys.stderr)]
    return next(filter(None, errors), None)


def _flush(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        abandon(stream)
        return error
    return None


def abandon(stream: TextIO) -> None:
    """Point a stream nowhere, so that Python does not complain at exit about what it could not write."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
