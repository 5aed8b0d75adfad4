"""``--json``, which means the same for every verb: the result as JSON, on standard output or in a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vitedge.bundle.folder import check_output_file
from vitedge.cli import output
from vitedge.errors import UsageError
from vitedge.files import write_report
from vitedge.safety import escape

STANDARD_OUTPUT = Path("-")


def add_json_flag(parser: argparse.ArgumentParser, content: str) -> None:
    """Declare ``--json [FILE]``.

    Args:
        parser: of the verb.
        content: what the JSON holds, for ``--help``.
    """
    parser.add_argument(
        "--json",
        nargs="?",
        const=STANDARD_OUTPUT,
        type=_json_file,
        metavar="FILE",
        help=f"write {content} as JSON: to FILE.json, or to standard output without FILE or with -",
    )


def _json_file(text: str) -> Path:
    """Parse the value of ``--json``; another name may be the argument of the verb, and nothing may overwrite that."""
    path = Path(text)
    if path != STANDARD_OUTPUT and path.suffix != ".json":
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name of a JSON file; expected FILE.json, - or nothing, which go to standard output"
        )
    return path


def is_standard_output(path: Path | None) -> bool:
    """Return whether ``--json`` takes standard output, which then gets nothing else."""
    return path == STANDARD_OUTPUT


def check_report_paths(written: Mapping[str, Path | None], read: Iterable[str | Path] = ()) -> None:
    """Refuse paths that no report can be written to, before the work begins.

    Args:
        written: the paths, by the options that name them; None for an option that was not given.
        read: paths that the verb reads.

    Raises:
        UsageError: as of ``check_output_file`` and ``check_written``.
        OutputError: as of ``check_output_file``.
    """
    for path in written.values():
        if path is not None and path != STANDARD_OUTPUT:
            check_output_file(path)
    check_written(written, read)


def check_written(written: Mapping[str, str | Path | None], read: Iterable[str | Path] = ()) -> None:
    """Refuse files that replace each other, or something that the verb reads.

    Args:
        written: the files, by the options that name them; None for an option that was not given.
        read: paths that the verb reads; missing paths count for nothing.

    Raises:
        UsageError: the message names both.
    """
    inputs = {os.path.realpath(path): path for path in read if os.path.lexists(path)}
    seen = dict[str, str]()
    for option, path in written.items():
        if path is None or Path(path) == STANDARD_OUTPUT:
            continue
        real = os.path.realpath(path)
        if real in inputs:
            raise UsageError(f"{option} would replace what is read: {path}", expected="another name")
        if real in seen:
            raise UsageError(f"{seen[real]} and {option} name the same file: {path}", expected="two names")
        seen[real] = option


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON to standard output or to a file.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: the reader of standard output has gone.
    """
    text = escape.json(value, indent=1) + "\n"
    if path == STANDARD_OUTPUT:
        output.write(text)
    else:
        write_report(path, text)


def write_result(path: Path | None, value: Callable[[], Any], text: Callable[[], str]) -> None:
    """Write the result of a verb: as JSON if ``--json`` was given, as text otherwise.

    Args:
        path: value of ``--json``.
        value: makes the value for the JSON.
        text: makes the text for standard output.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: the reader of standard output has gone.
    """
    if path is None:
        output.write(text())
        return
    check_report_paths({"--json": path})
    write_json(path, value())
