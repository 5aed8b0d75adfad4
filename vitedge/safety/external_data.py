"""What a bundle's ONNX graph has none of: data elsewhere, loops, and functions.

External data are tensors that name another file, or an address in memory, in the place of their data. ONNX Runtime and
TensorRT would open what a tensor names; of a graph that they are given as bytes they look for it in the current folder.
A loop need not end, and functions that call each other twice grow without end when they are inlined. This finds them
without the onnx package, which a device lacks.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitedge.safety.limits import GRAPH_FIELDS

_LOCATION = b"location"
"""Key of the entry that names the file. Without these bytes no tensor names one."""

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
"""Numbers of the fields of each message that lead to tensors, as in onnx.proto."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_OPERATOR = 4
_IF = b"If"
_LOOPS = {b"Loop", b"Scan", b"SequenceMap", b"BeamSearch", b"GreedySearch", b"Sampling", b"WhisperBeamSearch"}
"""The last four are ONNX Runtime's own, which run a graph until it says that it is done."""
_GRAPHS = (_GRAPH, _NODE, _ATTRIBUTE)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of a serialized ``ModelProto``, in whatever subgraph or function, has data elsewhere.

    Raises:
        ValueError: it is no ``ModelProto``, or has more than ``GRAPH_FIELDS`` fields.
    """
    if _LOCATION not in model:
        return False
    pending, left = [(_MODEL, 0, len(model))], GRAPH_FIELDS
    while pending:
        message, start, end = pending.pop()
        children = _CHILDREN[message]
        for field, begin, stop in _fields(model, start, end):
            left -= 1
            if not left:
                raise ValueError(f"it has more than {GRAPH_FIELDS} fields")
            if message == _TENSOR and field in (_EXTERNAL_DATA, _DATA_LOCATION):
                if field == _EXTERNAL_DATA or model[begin:stop].strip(b"\x80\x00"):
                    return True
            elif field in children and stop > begin:
                pending.append((children[field], begin, stop))
    return False


def endless_part(model: bytes) -> str:
    """What of a serialized ``ModelProto`` need not end, in whatever branch: a loop or a function; empty for nothing.

    Raises:
        ValueError: it is no ``ModelProto``, or has more than ``GRAPH_FIELDS`` fields.
    """
    pending, left = [(_MODEL, 0, len(model))], GRAPH_FIELDS
    while pending:
        message, start, end = pending.pop()
        within, operators = [], set() if message == _NODE else {_IF}  # of nodes, branches alone have graphs within
        for field, begin, stop in _fields(model, start, end):
            left -= 1
            inner = _CHILDREN[message].get(field)
            if not left:
                raise ValueError(f"it has more than {GRAPH_FIELDS} fields")
            if inner == _FUNCTION:
                return "a function"
            if message == _NODE and field == _OPERATOR:
                operators.add(model[begin:stop])  # of several the last counts, and this reads no wire types
            if inner in _GRAPHS:
                within.append((inner, begin, stop))
        for loop in operators & _LOOPS:
            return f"a {loop.decode('ascii')}"
        pending += within if _IF in operators else []
    return ""


def _fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number of each field of a message, and where its value begins and ends."""
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
    value = 0
    for shift, byte in enumerate(content[position : min(position + _VARINT_BYTES, end)]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError("it is cut off, or no ONNX graph")
