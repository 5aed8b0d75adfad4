"""Write files atomically, and remove partial files that killed programs left.

A writer holds a lock on its partial file or folder. The system releases the lock when the program ends for any reason.
Therefore another program, even in another container, can tell abandoned files from files that are being written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from vitedge.errors import OutputError, UsageError, did_you_mean
from vitedge.safety.escape import shell

PARTIAL = ".partial-"
_PARTIAL_NAME = re.compile(rf"\.(.+){re.escape(PARTIAL)}[a-z0-9_]{{8}}", re.DOTALL)
_ATTEMPTS = 100
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors that have nothing to do with the name of a file."""


def write_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text to a partial file and rename it, so that no reader finds half of it.

    Raises:
        OSError: the file cannot be written; nothing is left.
    """
    remove_abandoned(path.parent, lambda name: is_partial(name, of=(path.name,)))
    with _partial_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def partial_prefix(path: Path) -> str:
    """Return the prefix of the names of a path's partial files and folders; eight letters or digits follow it."""
    return f".{path.name}{PARTIAL}"


def is_partial(name: str, *, of: Collection[str] | None = None) -> bool:
    """Return whether a name belongs to a partial file or folder, of the given names or of any name."""
    found = _PARTIAL_NAME.fullmatch(name)
    return found is not None and (of is None or found[1] in of)


@contextlib.contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    """Create an empty file beside a path, and lock it; remove it at the end unless it was renamed."""
    with contextlib.ExitStack() as held:
        for _ in range(_ATTEMPTS):
            partial = path.with_name(f"{partial_prefix(path)}{secrets.token_hex(4)}")
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            held.callback(partial.unlink, missing_ok=True)
            if held.enter_context(holding(partial)):
                break
        yield partial


def create_file(path: Path, *, overwrite: bool) -> int:
    """Create an empty file.

    Args:
        path: its name.
        overwrite: replace a file of that name, in one step.

    Returns:
        A descriptor that is open for reading and writing.

    Raises:
        OSError: the file cannot be created; FileExistsError if it exists and is not to be replaced.
    """
    if not overwrite:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with _partial_file(path) as partial:
        descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
        try:
            partial.replace(path)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def replace_folder(finished: Path, path: Path) -> None:
    """Give a folder the name of another one, and remove that one.

    Linux exchanges the two names in one step (renameat2). On a file system without that, such as NFS, the name is free
    for a moment.

    Raises:
        OSError: a folder cannot be renamed; the old one has its name.
    """
    if _exchange(finished, path):
        shutil.rmtree(finished, ignore_errors=True)
        return
    aside = path.with_name(f"{partial_prefix(path)}{secrets.token_hex(4)}")
    path.rename(aside)
    try:
        finished.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names; return False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or not rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE):
        return rename is not None
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextlib.contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Lock a file or folder that this process has just created, so that other processes leave it alone.

    Yields:
        False if another process has already removed it, or is about to.
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
    """Try to lock; return whether this process has the lock, or None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_abandoned(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove files and folders that no process has locked; leave what cannot be locked or removed.

    Args:
        folder: the folder to search.
        is_ours: returns whether vitedge gives such names.
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
    """Write a file that a user asked for, atomically.

    Raises:
        UsageError: its name or folder does not allow it; nothing is left.
        OutputError: the disk is full; nothing is left.
    """
    try:
        write_atomic(path, text)
    except OSError as error:
        raise unwritable(path, error) from error


def check_report_path(path: Path) -> None:
    """Refuse a path that no report can be written to, before the work begins.

    A device or a FIFO is refused, because the report would replace it.

    Raises:
        UsageError: the path leads to something other than a file, its folder does not exist or is read-only, or
            its name is too long for a partial file beside it.
        OutputError: the disk is full.
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
        raise UsageError(f"{folder} cannot be written to", expected="a folder that you may write to")
    try:
        with _partial_file(path):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def did_you_mean_beside(path: Path) -> str:
    """Suggest what lies beside a path that does not exist, as ``did_you_mean`` does."""
    try:
        return did_you_mean(path.name, (each.name for each in path.parent.iterdir()))
    except (OSError, ValueError):
        return ""


def unwritable(path: Path, error: OSError, *, expected: str = "another name or folder") -> UsageError | OutputError:
    """Return the error for a file that cannot be made or written: the disk is to blame, or its name."""
    problem = f"{path} cannot be written: {error.strerror or error}"
    if error.errno in DISK_ERRORS:
        return OutputError(problem, fix="free some space, or name another place")
    return UsageError(problem, expected=expected)


def _mode(path: Path) -> int | None:
    """Return the mode of a file; None if the path does not exist."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # too long, too many links, or a null character
        raise UsageError(f"{path} cannot be written: {error}", expected="the name of a file to write") from error
