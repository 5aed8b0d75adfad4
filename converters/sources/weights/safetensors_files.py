"""Check the headers of safetensors files before the library maps them."""

from __future__ import annotations

import json
import math
import struct
from typing import Any, BinaryIO

from vitedge.converters.sources.weights.torch_files import UnsupportedTensorError
from vitedge.safety.files import parse_json
from vitedge.safety.limits import (
    CHECKPOINT_SHARING,
    CHECKPOINT_SPARE,
    CHECKPOINT_TENSORS,
    JSON_BYTES,
    TENSOR_DIMENSIONS,
)

TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"


def check_header(stream: BinaryIO, size: int) -> None:
    """Check the types and shapes in a header. The library checks that tensors lie within the file, without overlap.

    Args:
        stream: the file, at its beginning.
        size: size of the file in bytes.

    Raises:
        UnsupportedTensorError: a tensor has a type that vitedge does not read, or is too large for the file.
        ValueError: the file is no safetensors file, or its header is cut off or too large.
        OSError: the file cannot be read.
    """
    described = _header(stream)
    tensors = {key: value for key, value in described.items() if key != _METADATA}
    if len(tensors) > CHECKPOINT_TENSORS:
        raise ValueError(f"it has {len(tensors)} tensors; the limit is {CHECKPOINT_TENSORS}")
    for key, value in tensors.items():
        _check_tensor(key, value, CHECKPOINT_SHARING * size + CHECKPOINT_SPARE)


def _header(stream: BinaryIO) -> dict[str, Any]:
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        raise ValueError("it has no header")
    (size,) = _LENGTH.unpack(length)
    if size > JSON_BYTES:
        raise ValueError(f"its header has {size} bytes; the limit is {JSON_BYTES}")
    header = stream.read(size)
    if len(header) < size:
        raise ValueError("its header is cut off")
    text = header.decode("utf-8")
    described = parse_json(text)
    json.loads(text, object_pairs_hook=_once)
    if not isinstance(described, dict):
        raise ValueError("its header is no JSON object")  # noqa: TRY004
    return described


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header describes a tensor twice")
    return found


def _check_tensor(key: str, value: Any, most: int) -> None:
    shape = value.get("shape") if isinstance(value, dict) else None
    if not isinstance(shape, list) or not all(type(each) is int and each >= 0 for each in shape):
        raise ValueError(f"its header gives {key:.200} no shape")
    if value.get("dtype") not in TYPES:
        raise UnsupportedTensorError(key, f"is a tensor of the type {value.get('dtype')!s:.40}")
    if len(shape) > TENSOR_DIMENSIONS or math.prod(each or 1 for each in shape) > most:
        raise UnsupportedTensorError(key, f"has the shape {shape!s:.200}")
