"""Files from untrusted sources, read within ``vitedge.safety.limits``.

A file is opened once, without waiting. ``fstat`` of the open file refuses a FIFO, a socket or a device, so that nobody
can exchange the file between check and use. Refusals are ``OSError`` or ``ValueError``; callers translate them into
their own errors, like errors of the system.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from vitedge.safety.limits import FOLDER_DEPTH, FOLDER_ENTRIES, JSON_BYTES, JSON_DEPTH

_BLOCK = 512
_CHUNK = 1 << 20
_BYTE_ORDER_MARKS = (
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),  # begins with the mark of UTF-16
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
    ((codecs.BOM_UTF8,), "utf-8-sig"),
)


class UnsafeFileError(OSError):
    """A file or folder that is refused: not a regular file, or beyond a limit."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(errno.EINVAL, problem, os.fspath(path))

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: str | Path, *, limit: int) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: path of the file; links are followed.
        limit: largest size in bytes.

    Returns:
        A binary stream at its beginning; the caller closes it.

    Raises:
        UnsafeFileError: the path is a FIFO, socket, device or folder, is larger than ``limit``, or is a sparse file.
        OSError: the file does not exist, may not be read, or stands behind too many links.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check(path, descriptor, limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | Path, *, limit: int) -> int:
    """Check a file that a library will open by name, and return its size in bytes.

    Raises:
        OSError: ``open_regular`` would refuse the file.
    """
    with open_regular(path, limit=limit) as stream:
        return os.fstat(stream.fileno()).st_size


def _check(path: str | Path, descriptor: int, limit: int) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(path, f"it is {kind_of(status.st_mode)}, not a file")
    if status.st_size > limit:
        raise UnsafeFileError(path, f"it has {status.st_size} bytes; vitedge reads at most {limit}")
    stored = status.st_blocks * _BLOCK
    if status.st_size > _CHUNK and stored < status.st_size // 100 and _has_hole(descriptor, status.st_size):
        raise UnsafeFileError(path, f"it is sparse: {status.st_size} bytes, of which {stored} are on the disk")


def _has_hole(descriptor: int, size: int) -> bool:
    """Return whether the file has a hole; some file systems count no blocks and know no holes."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    except OSError:
        return True
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def kind_of(mode: int) -> str:
    """Name the kind of a file that is not regular, from its mode in ``stat``."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFLNK: "a link",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def read_bytes(path: str | Path, *, limit: int) -> bytes:
    """Read a whole regular file of at most ``limit`` bytes.

    Raises:
        UnsafeFileError: ``open_regular`` refuses the file, or it grows while it is read.
        OSError: the file cannot be opened or read.
    """
    with open_regular(path, limit=limit) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(size + 1)  # read() allocates the size that is asked for
    if len(content) > size:
        raise UnsafeFileError(path, "it grew while it was read")
    return content


def read_text(path: str | Path, *, limit: int, encoding: str = "utf-8") -> str:
    """Read a text file of at most ``limit`` bytes.

    Raises:
        OSError: ``read_bytes`` refuses the file.
        UnicodeDecodeError: the file is not text in this encoding.
    """
    return read_bytes(path, limit=limit).decode(encoding)


def read_lines(path: str | Path, *, limit: int, lines: int, errors: str = "strict") -> list[str]:
    """Read the lines of a text file, including blank lines. Only CR, LF or both end a line.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: path of the file.
        limit: largest size in bytes.
        lines: greatest number of lines.
        errors: what becomes of bytes that are not in the encoding, as for ``bytes.decode``; ``surrogateescape`` for
            lists of file names.

    Raises:
        UnsafeFileError: ``read_bytes`` refuses the file, or it has more than ``lines`` lines.
        OSError: the file cannot be opened or read.
        UnicodeDecodeError: the file is not in its encoding.
        ValueError: the file is UTF-16 or UTF-32 without a byte order mark.
    """
    content = read_bytes(path, limit=limit)
    text = content.decode(_encoding(content), errors).replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > lines:
        raise UnsafeFileError(path, f"it has more than {lines} lines")
    return text.removesuffix("\n").split("\n")


def _encoding(content: bytes) -> str:
    """Return the encoding that a byte order mark declares; UTF-8 without one."""
    for marks, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(marks):
            return encoding
    line = content.partition(b"\n")[0]
    if len(line) > 1 and line.count(0) >= len(line) // 2:  # a script of the first 256 characters has a NUL in each
        raise ValueError("it is UTF-16 or UTF-32 without a byte order mark, or no text; save it as UTF-8")
    return "utf-8"


def parse_json(text: str | bytes) -> Any:
    """Parse strict JSON of at most ``JSON_DEPTH`` levels, without NaN, infinity or halves of surrogate pairs.

    Raises:
        ValueError: the text is no such JSON; the message says why.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels") from None
    _check_values(value)
    return value


def read_json(path: str | Path, *, limit: int = JSON_BYTES) -> Any:
    """Read and parse a JSON file.

    Raises:
        OSError: ``read_bytes`` refuses the file.
        ValueError: the file is not UTF-8, or ``parse_json`` refuses it.
    """
    return parse_json(read_text(path, limit=limit, encoding="utf-8-sig"))


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:
        raise ValueError(f"the number {text:.20} does not fit a double")
    return number


def _check_values(value: object) -> None:
    """Refuse deep nesting and halves of surrogate pairs, without recursion."""
    level: list[object] = [value]
    for _ in range(JSON_DEPTH + 1):
        below: list[object] = []
        for each in level:
            if isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str) and not is_unicode(each):
                raise ValueError(f"the text {each!r:.60} has half of a surrogate pair")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels")


def is_unicode(text: str) -> bool:
    """Return whether text can be encoded as UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def folded_path(path: str) -> str:
    """Return a relative path as file systems see it that ignore case and Unicode normalization."""
    return unicodedata.normalize("NFC", PurePosixPath(path).as_posix()).casefold()


def is_file(path: str | Path) -> bool:
    """Return whether a path leads to a regular file; unlike ``Path.is_file``, never raise."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Return whether a path leads to a folder; unlike ``Path.is_dir``, never raise."""
    return os.path.isdir(path)  # noqa: PTH112


def expanded(path: str | Path) -> Path:
    """Replace ``~`` in a path; unlike ``Path.expanduser``, accept a user that does not exist."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def walk_files(folder: str | Path, *, left_out: Counter[str] | None = None) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files of a folder and of the folders below it, in no order, without hidden ones.

    Links to files are followed. Links to folders are not: 22 of them can make four million paths of one folder. FIFOs,
    sockets and devices are left out.

    Args:
        folder: the folder.
        left_out: counts what is left out, by its kind.

    Raises:
        UnsafeFileError: folders are nested deeper than ``FOLDER_DEPTH``, or there are more than ``FOLDER_ENTRIES``
            entries.
        OSError: the folder does not exist or cannot be listed.
    """
    pending, seen = [(os.fspath(folder), 0)], 0
    left_out = Counter() if left_out is None else left_out
    while pending:
        here, depth = pending.pop()
        if depth > FOLDER_DEPTH:
            raise UnsafeFileError(here, f"it lies {depth} folders deep; the limit is {FOLDER_DEPTH}")
        with os.scandir(here) as entries:
            for entry in entries:
                seen += 1
                if seen > FOLDER_ENTRIES:
                    raise UnsafeFileError(folder, f"it holds more than {FOLDER_ENTRIES} files and folders")
                if entry.name.startswith("."):
                    left_out["hidden"] += 1
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, depth + 1))
                elif _is_regular(entry):
                    yield entry
                else:
                    left_out["link to a folder or to nothing" if entry.is_symlink() else "device or FIFO"] += 1


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or through too many others
        return False
