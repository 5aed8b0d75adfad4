"""``--quiet``, ``--verbose`` and ``--no-color``, which mean the same for every verb."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vitedge.cli import output
from vitedge.progress import Silent, Terminal
from vitedge.safety.escape import terminal_lines
from vitedge.safety.redact import RedactingFilter

NO_COLOR = "NO_COLOR"


def add_verbosity_flags(parser: argparse.ArgumentParser, *, default: bool | str) -> None:
    """Declare ``--quiet``, ``--verbose`` and ``--no-color``.

    Args:
        parser: of the program, or of a verb.
        default: False for the program; ``argparse.SUPPRESS`` for a verb, which keeps what stood before its name.
    """
    group = parser.add_argument_group("what is told while it works")
    either = group.add_mutually_exclusive_group()
    either.add_argument("-q", "--quiet", action="store_true", default=default, help="results and errors only")
    either.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=default,
        help="also the time of each step, logs of libraries, and tracebacks",
    )
    group.add_argument("--no-color", action="store_true", default=default, help="no colours, as with NO_COLOR=1")


@contextmanager
def verbosity(arguments: argparse.Namespace) -> Iterator[None]:
    """Tell as much inside as the flags of a verb ask for, and give it a ``progress``."""
    with ExitStack() as stack:
        if arguments.no_color:
            stack.enter_context(_without_color())
        stack.enter_context(output.quieted(arguments.quiet))
        arguments.progress = Silent() if arguments.quiet else Terminal()
        if arguments.quiet:
            stack.enter_context(_without_warnings())
        if arguments.verbose:
            stack.enter_context(_logging())
        yield


@contextmanager
def _without_color() -> Iterator[None]:
    """Set the variable that other libraries and the processes of this one obey too."""
    before = os.environ.get(NO_COLOR)
    os.environ[NO_COLOR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_COLOR]
        else:
            os.environ[NO_COLOR] = before


@contextmanager
def _without_warnings() -> Iterator[None]:
    logger = logging.getLogger("vitedge")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _Formatter(logging.Formatter):
    """Escapes what records quote, line by line."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal_lines(super().format(record).splitlines()).rstrip("\n")


@contextmanager
def _logging() -> Iterator[None]:
    """Show the records and warnings of vitedge and of other libraries."""
    handler, ours = logging.StreamHandler(), logging.getLogger("vitedge")
    handler.addFilter(RedactingFilter())
    handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))
    levels = {logger: logger.level for logger in (logging.root, ours)}
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    ours.setLevel(logging.DEBUG)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        logging.root.removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def timed(arguments: argparse.Namespace) -> Iterator[None]:
    """Tell at the end how long each step took, with ``--verbose``."""
    try:
        yield
    finally:
        if arguments.verbose:
            output.note(terminal_lines(f"{seconds:8.1f} s  {text}" for text, seconds in arguments.progress.times()))
