"""Arrays of an ``.npz`` file from an untrusted source.

NumPy's own reader evaluates headers as Python, inflates any amount of data and trusts shapes. This reader accepts only
the form of header that NumPy writes, and checks types, shapes and sizes before it reads data.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.safety.limits import ARRAY_HEADER_BYTES, ARRAYS_DIRECTORY_BYTES

_SUFFIX = ".npy"
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LENGTHS = {b"\x93NUMPY\x01\x00": struct.Struct("<H"), b"\x93NUMPY\x02\x00": struct.Struct("<I")}
_MAGIC_BYTES = 8
_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-z]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,10}(?:, \d{1,10}){0,7},?)?)\), ?\} *\n"
)


def read_npz(content: bytes, kinds: Mapping[str, tuple[str, int]], *, limit: int) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file that ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    Args:
        content: content of the file.
        kinds: for each array that the file may hold, by name: type, such as ``f4`` in either byte order, and number of
            axes.
        limit: greatest size of all arrays together, in bytes.

    Returns:
        The arrays of the file, in this machine's byte order; they may be read-only.

    Raises:
        ValueError: the file is no such file, is cut off or damaged, holds another array or one array twice, or is
            compressed in another way; or an array has another type or number of axes, or exceeds ``limit``.
    """
    try:
        with zipfile.ZipFile(_Bounded(content)) as archive:
            entries = _entries(archive, kinds, limit)
            return {name: _array(archive, info, *kinds[name]) for name, info in entries.items()}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError) as error:
        raise ValueError(f"it is no .npz file, or damaged: {error}") from error
    except (NotImplementedError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"it is no .npz file that NumPy writes: {error}") from error


class _Bounded(io.BytesIO):
    """A file that limits what ``zipfile`` reads at once, because ``zipfile`` trusts the declared directory size."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if len(content) > ARRAYS_DIRECTORY_BYTES:
            raise ValueError(f"its directory has {len(content)} bytes; the limit is {ARRAYS_DIRECTORY_BYTES}")
        return content


def _entries(archive: zipfile.ZipFile, kinds: Mapping[str, tuple[str, int]], limit: int) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(_SUFFIX)
        if name == info.filename or name not in kinds:
            raise ValueError(f"it holds {info.filename!r:.80}; the arrays that it may hold are {', '.join(kinds)}")
        if name in found:
            raise ValueError(f"it holds {name} twice")
        if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
            raise ValueError(f"its array {name} is encrypted, or compressed by another method than deflate")
        found[name] = info
    declared = sum(info.file_size for info in found.values())
    if declared > limit:
        raise ValueError(f"its arrays have {declared} bytes; the limit is {limit}")
    return found


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, kind: str, axes: int) -> NDArray[Any]:
    with archive.open(info) as stream:
        length = _LENGTHS.get(magic := stream.read(_MAGIC_BYTES))
        if length is None:
            raise ValueError(f"{info.filename} is no array: it begins with {magic!r}")
        (size,) = length.unpack(stream.read(length.size))
        if size > ARRAY_HEADER_BYTES:
            raise ValueError(f"{info.filename} has a header of {size} bytes; the limit is {ARRAY_HEADER_BYTES}")
        dtype, order, shape = _parsed(info.filename, stream.read(size), kind, axes)
        wanted = math.prod(shape) * dtype.itemsize
        if _MAGIC_BYTES + length.size + size + wanted != info.file_size:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, which does not fit its shape {shape}")
        data = b"".join(iter(lambda: stream.read(ARRAYS_DIRECTORY_BYTES), b""))  # to the end, where its CRC is checked
    if len(data) != wanted:
        raise ValueError(f"{info.filename} is cut off")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if order else "C")
    return values.astype(dtype.newbyteorder("="), order="C", copy=False)


def _parsed(name: str, header: bytes, kind: str, axes: int) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Return type, Fortran order and shape."""
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError(f"{name} has a header that NumPy does not write: {header!r:.80}")
    described = found[1].decode("ascii")
    shape = tuple(int(axis) for axis in re.findall(rb"\d+", found[3]))
    if described[1:] != kind or len(shape) != axes:
        raise ValueError(f"{name} is of type {described} and shape {shape}; expected {kind} with {axes} axes")
    return np.dtype(described), found[2] == b"True", shape
