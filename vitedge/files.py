"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vitedge.errors import UsageError
from vitedge.safety.escape import shell


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text beside its name and rename it, so that nobody finds half of it.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_report(path: Path, text: str) -> None:
    """Write a file that a user asked for; as ``write_whole``.

    Raises:
        UsageError: it cannot be written; nothing is left.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", fix="free some space, or name another place") from error


def check_report_path(path: Path) -> None:
    """Refuse a place that a report cannot be written to, before the work that it reports is done.

    A device or a FIFO is such a place: the report would replace it.

    Raises:
        UsageError: something that is no file is there, or its folder does not exist or takes no files.
    """
    folder = path.parent
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a FIFO"
        raise UsageError(f"{path} is {kind}", expected="the name of a file to write")
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder",
            expected=f"an existing folder for {path.name}",
            fix=f"mkdir -p {shell(str(folder))}",
        )
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} takes no files", expected="a folder that you may write to")


def _mode(path: Path) -> int | None:
    """Of what is at the path; None if nothing is."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # too long, too many links, or a null character
        raise UsageError(f"{path} cannot be written: {error}", expected="the name of a file to write") from error
