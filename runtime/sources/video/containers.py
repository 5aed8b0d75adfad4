"""Check that a file is a video by its first bytes, and count the samples that an MP4 declares.

FFmpeg and GStreamer guess the format from the whole file, and follow playlists and scripts. Only files that begin like
a video are passed to them. An MP4 of ten kilobytes can declare a hundred million samples, and FFmpeg allocates 70 bytes
for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from vitedge.safety.limits import VIDEO_BOXES, VIDEO_SAMPLES

CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "ivf", "yuv4mpegpipe"),
    *("h264", "hevc", "m4v", "mjpeg"),
)
"""FFmpeg's names of the formats that a video file may have."""
_BEGINNINGS = (
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"DKIF"),  # IVF
    (0, b"YUV4MPEG2 "),
    (0, b"\0\0\1"),  # MPEG program streams; H.264, H.265 and MPEG-4 without a container
    (0, b"\0\0\0\1"),
    (0, b"\xff\xd8\xff"),  # JPEG after JPEG
)
_TRANSPORT_PACKETS, _TRANSPORT_SYNC, _SYNCS = (188, 192, 204), 0x47, 5
_LOOKED_AT = max(_TRANSPORT_PACKETS) * (_SYNCS + 1)

_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"sidx", b"uuid"})
"""Boxes that an MP4 or MOV may begin with."""
_HOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts"})
_PASSED_OVER = frozenset(
    {b"mdat", b"free", b"skip", b"wide", b"sidx", b"tfra", b"elst"}
    | {b"ctts", b"stsc", b"stco", b"co64", b"stss", b"sdtp", b"sbgp", b"sgpd", b"subs", b"saio", b"saiz", b"senc"}
)
"""Boxes of media and tables, whose bytes may look like any box."""
_TIMES = b"stts"
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Boxes that contain a number of samples, and its offset in them."""
_DEEPEST = 16
_CHUNK, _OVERLAP = 1 << 24, 64


class ContainerError(ValueError):
    """A file is not a video, or declares more than it can hold."""


def check_container(stream: BinaryIO) -> None:
    """Check that a file begins like a video, and that an MP4 declares no more samples than it can hold.

    Raises:
        ContainerError: the file fails the check; the message says why.
        OSError: the file cannot be read.
    """
    beginning = stream.read(_LOOKED_AT)
    if beginning[4:8] in _BOXES:
        _check_samples(stream)
    elif not (any(beginning.startswith(magic, at) for at, magic in _BEGINNINGS) or _is_transport_stream(beginning)):
        raise ContainerError("it does not begin like a video")


def _is_transport_stream(beginning: bytes) -> bool:
    """Decide whether the sync byte repeats at the distance of packets."""
    return any(
        len(syncs := beginning[at::size][:_SYNCS]) == _SYNCS and set(syncs) == {_TRANSPORT_SYNC}
        for size in _TRANSPORT_PACKETS
        for at in range(size)
    )


def _check_samples(stream: BinaryIO) -> None:
    size = os.fstat(stream.fileno()).st_size
    declared = sum(_Index(stream).samples(0, size))
    if declared > size:
        raise ContainerError(f"it declares {declared} samples in {size} bytes")


class _Index:
    """The boxes of an MP4 that count its samples.

    FFmpeg accepts such a box anywhere. So boxes that hold boxes are walked, tables are skipped, and the rest is
    searched.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._boxes = 0
        self._even = False

    def samples(self, begin: int, end: int, depth: int = 0) -> Iterator[int]:
        """Yield the counts between two offsets."""
        for kind, body, stop in self._walk(begin, end):
            if kind in _COUNTS:
                yield self._count(kind, self._read(body, 16))
            elif kind == _TIMES:
                self._even = _is_even(self._read(body, 16))
            elif kind in _HOLDERS and depth < _DEEPEST:
                yield from self.samples(body, stop, depth + 1)
            elif kind not in _PASSED_OVER:
                yield from self._searched(body - 4, stop)

    def _walk(self, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the type of each box, and the offsets where its contents begin and end."""
        while begin + 8 <= end:
            self._boxes += 1
            if self._boxes > VIDEO_BOXES:
                raise ContainerError(f"it has more than {VIDEO_BOXES} boxes")
            header = self._read(begin, 16)
            length, kind, body = int.from_bytes(header[:4], "big"), header[4:8], begin + 8
            if length == 1:
                length, body = int.from_bytes(header[8:], "big"), begin + 16
            stop = min(begin + length, end) if length >= 8 else end
            yield kind, body, stop
            begin = max(stop, begin + 8)

    def _searched(self, begin: int, end: int) -> Iterator[int]:
        for start in range(begin, end, _CHUNK - _OVERLAP):
            chunk = self._read(start, min(_CHUNK, end - start))
            if b"cmov" in chunk:
                raise ContainerError("its index is compressed")
            for kind in _COUNTS:
                place = chunk.find(kind)
                while place >= 0:
                    yield self._count(kind, chunk[place + 4 : place + 20])
                    place = chunk.find(kind, place + 4)

    def _count(self, kind: bytes, body: bytes) -> int:
        at = _COUNTS[kind]
        count = int.from_bytes(body[at : at + 4], "big")
        if count > VIDEO_SAMPLES and not self._even:
            raise ContainerError(f"it declares {count} samples; {VIDEO_SAMPLES} are the most")
        return count

    def _read(self, place: int, length: int) -> bytes:
        self._stream.seek(place)
        return self._stream.read(length)


def _is_even(times: bytes) -> bool:
    """Decide whether all samples last one tick, as in uncompressed audio, which FFmpeg keeps in chunks."""
    return times[4:8] == b"\0\0\0\1" and times[12:16] == b"\0\0\0\1"
