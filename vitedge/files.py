"""Files that are written whole or not at all, and what killed programs left of them.

Whoever writes holds a lock on the partial file or folder, which the system takes away when the program ends in whatever
way. So the next one can tell what is left from what is being written, in another container too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from vitedge.errors import UsageError
from vitedge.safety.escape import shell

PARTIAL = ".partial-"
_PARTIAL_NAME = re.compile(rf"\.(.+){re.escape(PARTIAL)}[a-z0-9_]{{8}}", re.DOTALL)
_ATTEMPTS = 100


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text beside its name and rename it, so that nobody finds half of it.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    remove_abandoned(path.parent, lambda name: is_partial(name, of=(path.name,)))
    with _partial_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def partial_prefix(path: Path) -> str:
    """How the names of partial files and folders of a path begin; eight letters or digits follow."""
    return f".{path.name}{PARTIAL}"


def is_partial(name: str, *, of: Collection[str] | None = None) -> bool:
    """Whether a name is that of a partial file or folder, of certain names or of any."""
    found = _PARTIAL_NAME.fullmatch(name)
    return found is not None and (of is None or found[1] in of)


@contextlib.contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    """An empty file beside a path, held by this process; removed unless it was renamed."""
    with contextlib.ExitStack() as held:
        for _ in range(_ATTEMPTS):
            partial = path.with_name(f"{partial_prefix(path)}{secrets.token_hex(4)}")
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            held.callback(partial.unlink, missing_ok=True)
            if held.enter_context(holding(partial)):
                break
        yield partial


@contextlib.contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Show other processes that this one writes a file or folder that it made just now.

    Yields:
        False if another process took it for abandoned first: then it is gone, or will be.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor) is not False and os.path.lexists(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether this process has the lock now; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_abandoned(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove files and folders that nobody holds; where they cannot be locked or removed, they stay.

    Args:
        folder: that holds them.
        is_ours: whether a name is one that vitedge gives.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if is_ours(path.name):
                _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not _lock(descriptor):
                return
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(descriptor)


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
