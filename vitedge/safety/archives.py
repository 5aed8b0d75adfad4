"""Zip archives from untrusted sources, whose entries are stored without compression."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from vitedge.safety.limits import ARCHIVE_DIRECTORY_BYTES

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Entry:
    """Position of a file in its archive.

    Attributes:
        offset: position of its first byte.
        size: size in bytes.
    """

    offset: int
    size: int


def stored_entries(stream: BinaryIO) -> dict[str, Entry]:
    """Find the files of an archive without compression, as PyTorch and ``numpy.savez`` write it.

    Args:
        stream: the archive, at any position.

    Returns:
        Files by name; they do not overlap, and lie within the archive.

    Raises:
        ValueError: the stream is no archive or is cut off, the directory is too large, or a file is compressed,
            encrypted, named twice, or overlaps another.
        OSError: the stream cannot be read.
    """
    try:
        infos = zipfile.ZipFile(_Bounded(stream)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError, EOFError) as error:
        raise ValueError(f"it is no zip archive, or cut off: {error}") from error
    end = _size(stream)
    for info in sorted(infos, key=lambda each: each.header_offset, reverse=True):
        _check_stored(info)
        if info.header_offset + _LOCAL_HEADER.size + info.compress_size > end:
            raise ValueError(f"its entry {info.filename!r:.80} overlaps another, or is cut off")
        end = info.header_offset
    entries = {info.filename: Entry(_data_offset(stream, info), info.file_size) for info in infos}
    if len(entries) != len(infos):
        raise ValueError("two of its entries have one name")
    return entries


def read_entry(stream: BinaryIO, entry: Entry, *, limit: int) -> bytes:
    """Read a file of an archive.

    Raises:
        ValueError: the file has more than ``limit`` bytes, or the archive is cut off.
    """
    if entry.size > limit:
        raise ValueError(f"an entry has {entry.size} bytes; the limit is {limit}")
    stream.seek(entry.offset)
    content = stream.read(entry.size)
    if len(content) != entry.size:
        raise ValueError("it is cut off")
    return content


class _Bounded(io.RawIOBase):
    """A stream that gives ``zipfile`` at most ``ARCHIVE_DIRECTORY_BYTES`` at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        wanted = size if size is not None and size >= 0 else _size(self._stream) - self._stream.tell()
        if wanted > ARCHIVE_DIRECTORY_BYTES:
            raise ValueError(f"its directory has {wanted} bytes; the limit is {ARCHIVE_DIRECTORY_BYTES}")
        return self._stream.read(wanted)


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _check_stored(info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"its entry {info.filename!r:.80} is compressed")
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"its entry {info.filename!r:.80} is encrypted")


def _data_offset(stream: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return the position after an entry's own header, whose extra field pads the data."""
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) != _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"its entry {info.filename!r:.80} is not where its directory says")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    offset = info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
    if offset + info.file_size > _size(stream):
        raise ValueError(f"its entry {info.filename!r:.80} is cut off")
    return offset
