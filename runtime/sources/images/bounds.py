"""Bounds on the work of an image decoder, checked before it decodes.

A small file can keep a decoder busy for hours: a JPEG with thousands of scans, a TIFF with millions of strips, a PNG of
empty chunks. This module parses the formats of ``vitedge.runtime.sources.images.reading`` only as far as these counts
need.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vitedge.safety.limits import IMAGE_HEADER_BYTES, IMAGE_PARTS, IMAGE_READS, IMAGE_SCANS

_JPEG_START, _JPEG_END, _JPEG_SCAN = b"\xff\xd8\xff", 0xD9, 0xDA
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_DIRECTORIES_IN = (b"Exif\0\0", b"MPF\0")
"""First bytes of the JPEG segments that hold TIFF directories."""

_TIFF_STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_BYTES = frozenset({1, 2, 6, 7})
_TIFF_PLACES = frozenset({273, 324})
"""StripOffsets and TileOffsets."""
_TIFF_DIRECTORIES = frozenset({34665, 34853, 40965})
"""Tags that hold the offset of a directory: Exif, GPS and Interoperability."""
_MOST_DIRECTORIES = 64


class ImageBoundsError(Exception):
    """An image file exceeds a limit of ``vitedge.safety.limits``."""


class BoundedReader(io.BytesIO):
    """The contents of an image file, with a limit on the number of reads.

    Decoders skip comments, chunks and padding piece by piece, in Python; a file can hold a hundred million of them.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads_left = IMAGE_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as ``io.BytesIO`` does.

        Raises:
            ImageBoundsError: it was read too often.
        """
        self.reads_left -= 1
        if self.reads_left < 0:
            raise ImageBoundsError("it is cut into too many pieces")
        return super().read(size)


def check_content(content: bytes) -> None:
    """Check that a JPEG or TIFF would not keep its decoder busy.

    Raises:
        ImageBoundsError: says what there is too much of.
    """
    if content.startswith(_JPEG_START):
        _check_jpeg(content)
    elif content[:4] in _TIFF_STARTS:
        _check_tiff(content)


@dataclass(frozen=True)
class _Segment:
    code: int
    start: int
    payload: slice


def _segments(content: bytes) -> Iterator[_Segment]:
    """Yield the segments of a JPEG as libjpeg finds them; it skips the bytes between them."""
    position = 2
    while (found := _JPEG_MARKER.search(content, position)) is not None:
        code, begin = content[found.end() - 1], found.end()
        if code == _JPEG_END:
            return
        position = begin + int.from_bytes(content[begin : begin + 2], "big")
        yield _Segment(code, found.start(), slice(begin + 2, position))


def _check_jpeg(content: bytes) -> None:
    scans = 0
    directories: dict[bytes, list[bytes]] = {beginning: [] for beginning in _DIRECTORIES_IN}
    for number, segment in enumerate(_segments(content)):
        if number > IMAGE_PARTS or (not scans and segment.start > IMAGE_HEADER_BYTES):
            raise ImageBoundsError("its header is too long")
        if segment.code == _JPEG_SCAN:
            scans += 1
        if scans > IMAGE_SCANS:
            raise ImageBoundsError(f"it has more than {IMAGE_SCANS} scans")
        for beginning in _DIRECTORIES_IN if not scans else ():
            if content.startswith(beginning, segment.payload.start):
                directories[beginning].append(content[segment.payload][len(beginning) :])
    for directory in map(b"".join, directories.values()):
        if directory[:4] in _TIFF_STARTS:
            _check_tiff(directory)


def _check_tiff(content: bytes) -> None:
    """Count what the first directory and the ones that it points to declare; Pillow refuses other damage itself."""
    order, big = _TIFF_STARTS[content[:4]]
    count_format, entry, value_format = ("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")
    pending, parts, declared = [_number(content, 8 if big else 4, order + value_format)], 0, 0
    for begin in pending:
        count = _number(content, begin, order + count_format)
        parts += count
        if parts > IMAGE_PARTS or len(pending) > _MOST_DIRECTORIES:
            raise ImageBoundsError("it has too many tags")
        first = begin + struct.calcsize(order + count_format)
        size = struct.calcsize(order + entry)
        whole = content[first : first + count * size]
        for tag, kind, length, value in struct.iter_unpack(order + entry, whole[: len(whole) // size * size]):
            if length > IMAGE_PARTS and (tag in _TIFF_PLACES or kind not in _TIFF_BYTES):
                raise ImageBoundsError(f"its tag {tag} has {length} values")
            (place,) = struct.unpack(order + value_format, value)
            held = length * _TIFF_SIZES.get(kind, 0)
            declared += held if len(value) < held <= len(content) - place else 0
            if tag in _TIFF_DIRECTORIES and place not in pending:
                pending.append(place)
        if declared > 2 * len(content):
            raise ImageBoundsError("its tags share their values")


def _number(content: bytes, place: int, layout: str) -> int:
    """Read the integer at an offset; 0 beyond the end."""
    end = place + struct.calcsize(layout)
    return int(struct.unpack(layout, content[place:end])[0]) if end <= len(content) else 0
