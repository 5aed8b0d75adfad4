"""Scan a serialized ONNX graph for parts that bundles must not have: external data, loops and functions.

A tensor with external data names another file, or an address in memory, instead of holding its data. ONNX Runtime and
TensorRT would open the named file; for a graph given as bytes they look for it in the current folder. A loop may never
end, and functions that call each other twice grow exponentially when they are inlined. The scan works without the onnx
package, which a device lacks.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitedge.safety.limits import GRAPH_FIELDS

EXTERNAL = "a tensor with external data"

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
"""Field numbers in onnx.proto that lead from each message to tensors and nodes."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_KEY, _VALUE = 1, 2
_OPERATOR = 4
_LOOPS = {b"Loop", b"Scan", b"SequenceMap", b"BeamSearch", b"GreedySearch", b"Sampling", b"WhisperBeamSearch"}
"""The last four belong to ONNX Runtime; they run a graph until its result says stop."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10


def refused_parts(model: bytes, *, data: str | None = None) -> Iterator[str]:
    """Find the refused parts of a serialized ``ModelProto``, in all subgraphs and functions.

    Args:
        model: the bytes.
        data: name of the only file that may hold external data; None if no file may.

    Yields:
        ``EXTERNAL`` for each tensor with external data, and the name of each part that may run forever, such as
        ``a Loop`` or ``a function``.

    Raises:
        ValueError: the bytes are no ``ModelProto``, or have more than ``GRAPH_FIELDS`` fields.
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
            elif message == _NODE and field == _OPERATOR:  # protobuf takes the last of several; this checks all
                if model[begin:stop] in _LOOPS:
                    yield f"a {model[begin:stop].decode('ascii')}"
            elif message == _TENSOR and _is_refused(model, field, begin, stop, data):
                yield EXTERNAL


def _is_refused(model: bytes, field: int, start: int, end: int, data: str | None) -> bool:
    """Return whether a field of a tensor says that its data is outside the graph, and not in the only other file."""
    if field == _EXTERNAL_DATA:
        return data is None or not _is_place_in(model, start, end, data.encode())
    return field == _DATA_LOCATION and data is None and bool(model[start:end].strip(b"\x80\x00"))


def _is_place_in(model: bytes, start: int, end: int, data: bytes) -> bool:
    """Return whether an entry of external data names this file, or a place in it."""
    pairs = [(field, model[begin:stop]) for field, begin, stop in fields(model, start, end)]
    keys, values = ([text for field, text in pairs if field == number] for number in (_KEY, _VALUE))
    if len(keys) != 1 or len(values) != 1 or len(pairs) != 2:
        return False
    return values[0] == data if keys[0] == b"location" else keys[0] in (b"offset", b"length") and values[0].isdigit()


def fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a serialized message.

    Raises:
        ValueError: the bytes are no message, or are cut off.
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
    if position < end and content[position] < 0x80:  # the most frequent case
        return content[position], position + 1
    value = 0
    for shift, byte in enumerate(content[position : min(position + _VARINT_BYTES, end)]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("it is cut off, or no ONNX graph")
