"""What a bundle's ONNX graph has none of: data elsewhere, loops, and functions.

External data are tensors that name another file, or an address in memory, in the place of their data. ONNX Runtime and
TensorRT would open what a tensor names; of a graph that they are given as bytes they look for it in the current folder.
A loop need not end, and functions that call each other twice grow without end when they are inlined. This finds them
without the onnx package, which a device lacks.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitedge.safety.limits import GRAPH_FIELDS

ELSEWHERE = "a tensor with data elsewhere"

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _TRAINING, _FUNCTION = range(8)
_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
}
"""Numbers of the fields of each message that lead to tensors and nodes, as in onnx.proto."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_OPERATOR = 4
_LOOPS = {b"Loop", b"Scan", b"SequenceMap", b"BeamSearch", b"GreedySearch", b"Sampling", b"WhisperBeamSearch"}
"""The last four are ONNX Runtime's own, which run a graph until it says that it is done."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10


def refused_parts(model: bytes) -> Iterator[str]:
    """What of a serialized ``ModelProto`` no bundle has, in whatever subgraph or function.

    Yields:
        ``ELSEWHERE`` for a tensor whose data is in a file or in memory; for what need not end its name, such as
        ``a Loop`` or ``a function``.

    Raises:
        ValueError: it is no ``ModelProto``, or has more than ``GRAPH_FIELDS`` fields.
    """
    pending, left = [(_MODEL, 0, len(model))], GRAPH_FIELDS
    while pending:
        message, start, end = pending.pop()
        children = _CHILDREN[message]
        for field, begin, stop in fields(model, start, end):
            left -= 1
            if not left:
                raise ValueError(f"it has more than {GRAPH_FIELDS} fields")
            if field in children:
                if children[field] == _FUNCTION:
                    yield "a function"
                pending.append((children[field], begin, stop))
            elif message == _NODE and field == _OPERATOR:  # of several the last counts, and this reads no wire types
                if model[begin:stop] in _LOOPS:
                    yield f"a {model[begin:stop].decode('ascii')}"
            elif message == _TENSOR and _is_elsewhere(field, model[begin:stop] if field == _DATA_LOCATION else b""):
                yield ELSEWHERE


def _is_elsewhere(field: int, location: bytes) -> bool:
    return field == _EXTERNAL_DATA or bool(location.strip(b"\x80\x00"))


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of a serialized ``ModelProto`` has data elsewhere; errors as ``refused_parts``."""
    return ELSEWHERE in refused_parts(model)


def endless_part(model: bytes) -> str:
    """What of a serialized ``ModelProto`` need not end; empty for nothing. Errors as ``refused_parts``."""
    return next((part for part in refused_parts(model) if part != ELSEWHERE), "")


def fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Give the number of each field of a serialized message, and where its value begins and ends.

    Raises:
        ValueError: it is no message, or cut off.
    """
    while position < end:
        tag, position = _varint(content, position, end)
        field, kind = tag >> 3, tag & 7
        begin = position
        if kind == _VARINT:
            _, position = _varint(content, position, end)
        elif kind == _BYTES:
            length, begin = _varint(content, position, end)
            position = begin + length
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"it has a field of the wire type {kind}")
        if position > end or not field:
            raise ValueError("it is cut off, or no ONNX graph")
        yield field, begin, position


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    if position < end and content[position] < 0x80:  # most of them
        return content[position], position + 1
    value = 0
    for shift, byte in enumerate(content[position : min(position + _VARINT_BYTES, end)]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("it is cut off, or no ONNX graph")
