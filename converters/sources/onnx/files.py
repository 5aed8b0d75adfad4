"""Read ONNX files from untrusted sources within limits: first the graph, then its external data.

``onnx.load`` parses any content, of which two bytes can become 170 bytes of memory, and opens any file that the graph
names. Here fields are counted before they are parsed, the graph is checked (``graph_check``), and external data comes
from regular files of the same folder, within the real size of these files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import onnx
from onnx import TensorProto

from vitedge.bundle.bundle import data_of
from vitedge.converters.sources.onnx.graph_check import GraphError, check_graph, tensor_bytes, tensors_of
from vitedge.safety.files import open_regular, read_bytes
from vitedge.safety.limits import GRAPH_BYTES, GRAPH_FIELDS
from vitedge.safety.onnx_scan import fields


class MissingExternalDataError(GraphError):
    """A graph names a file of external data that does not exist.

    Args:
        name: name of the file, relative to the graph's folder.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"its weights are in {name}, which is not beside it")
        self.name = name


@dataclass(frozen=True)
class GraphFile:
    """A graph that was read and checked.

    Attributes:
        model: the graph, without external data.
        sha256: hex SHA-256 of the file.
        size: size of the file with its external data, in bytes.
        nodes: number of nodes in the file; nodes of a function count once.
    """

    model: onnx.ModelProto
    sha256: str
    size: int
    nodes: int


def read_graph(path: Path) -> GraphFile:
    """Read a graph, without external data.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        GraphError: ``check_graph`` refuses the graph.
        ValueError: the file is no ONNX file, or is cut off.
    """
    return parse_graph(read_bytes(path, limit=GRAPH_BYTES))


def parse_graph(content: bytes) -> GraphFile:
    """Parse and check the content of an ONNX file.

    Raises:
        GraphError: ``check_graph`` refuses the graph.
        ValueError: the content is no ONNX file, or is cut off.
    """
    _check_fields(content)
    model = _parsed(content)
    measure = check_graph(model)
    return GraphFile(model, hashlib.sha256(content).hexdigest(), len(content) + measure.outside, measure.nodes)


def _parsed(content: bytes) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's error class is not in its type stubs
        raise ValueError(str(error)) from error
    if not model.graph.node:
        raise ValueError("it holds no graph")
    return model


def load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Load external data into a graph, in place.

    Args:
        model: the graph, as ``read_graph`` returns it.
        path: path of the graph's file.

    Raises:
        MissingExternalDataError: a file does not exist.
        GraphError: a file lies outside the graph's folder, or is too small.
        OSError: a file cannot be read, or is no regular file.
    """
    for location, tensors in _outside(model).items():
        with _opened(path, location, tensors) as stream:
            for tensor in tensors:
                _fill(tensor, stream)


def load_own_data(model: onnx.ModelProto, path: Path) -> None:
    """Load the weights that ``vitedge.graph.files.write_graph`` wrote beside a graph, in place, and no others.

    Raises:
        GraphError: a tensor has its data in another file, or the file is too small.
        OSError: the file cannot be read, or is no regular file.
    """
    for tensor in tensors_of(model):
        outside = tensor.external_data or tensor.data_location == TensorProto.EXTERNAL
        if outside and _entries(tensor).get("location") != data_of(path.name):
            raise GraphError(f"the weights {tensor.name!r:.200} are in another file")
    load_external_data(model, path)


def external_data_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """List the files with external data of a graph, and check their sizes; raise as ``load_external_data``."""
    outside = _outside(model)
    for location, tensors in outside.items():
        _opened(path, location, tensors).close()
    return [external_data_path(path, location) for location in sorted(outside)]


def has_external_data(model: onnx.ModelProto) -> bool:
    """Return whether a tensor of a graph has external data."""
    return any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in tensors_of(model))


def external_data_path(path: Path, location: str) -> Path:
    """Return the path of a file with external data, with links resolved.

    Args:
        path: path of the graph.
        location: name of the file in the graph.

    Raises:
        MissingExternalDataError: the file does not exist.
        GraphError: the file lies neither in the folder of the graph nor in the folder that a link ``path`` leads to.
    """
    name = PurePosixPath(location)
    if not name.parts or name.is_absolute() or ".." in name.parts or "\0" in location:
        raise GraphError(f"its weights are in {location!r:.200}, which is no file of its folder")
    try:
        found = Path(os.path.realpath(path.parent / name, strict=True))
    except FileNotFoundError:
        raise MissingExternalDataError(location) from None
    folders = (Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent)  # the hub's cache has links
    if not any(found.is_relative_to(folder) for folder in folders):
        raise GraphError(f"its weights are in {location!r:.200}, a link out of its folder")
    return found


def _outside(model: onnx.ModelProto) -> dict[str, list[TensorProto]]:
    """Return the tensors with external data, by file."""
    found: dict[str, list[TensorProto]] = {}
    for tensor in tensors_of(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            found.setdefault(_entries(tensor).get("location", ""), []).append(tensor)
    return found


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _opened(path: Path, location: str, tensors: Iterable[TensorProto]) -> BinaryIO:
    """Open a file with external data, and check that it holds its tensors."""
    stream = open_regular(external_data_path(path, location), limit=GRAPH_BYTES)
    try:
        _check_places(tensors, os.fstat(stream.fileno()).st_size, location)
    except BaseException:
        stream.close()
        raise
    return stream


def _check_places(tensors: Iterable[TensorProto], size: int, location: str) -> None:
    """Refuse tensors that are larger than their file, each alone or all together."""
    left = size
    for tensor in tensors:
        wanted, offset = tensor_bytes(tensor), _offset(tensor)
        length = _number(_entries(tensor).get("length", str(wanted)))
        left -= wanted
        if length != wanted or offset + wanted > size or left < 0:
            raise GraphError(
                f"{location!r:.200} has {size} bytes; {tensor.name!r:.200} of shape {tuple(tensor.dims)} needs "
                f"{wanted} at {offset}, beside the other tensors, and says {length}"
            )


def _fill(tensor: TensorProto, stream: BinaryIO) -> None:
    wanted = tensor_bytes(tensor)
    stream.seek(_offset(tensor))
    tensor.raw_data = stream.read(wanted)
    if len(tensor.raw_data) != wanted:
        raise GraphError("its weights were cut off while they were read")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT


def _offset(tensor: TensorProto) -> int:
    return _number(_entries(tensor).get("offset", "0"))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise GraphError(f"{text!r:.40} is no position in a file of weights")
    return int(text)


def _check_fields(content: bytes) -> None:
    """Count the fields of a graph before they are parsed."""
    pending, left = [(onnx.ModelProto.DESCRIPTOR.full_name, 0, len(content))], GRAPH_FIELDS
    while pending:
        kind, start, end = pending.pop()
        nested = _messages()[kind]
        for number, begin, stop in fields(content, start, end):
            left -= 1
            if not left:
                raise GraphError(f"it has more than {GRAPH_FIELDS} fields")
            if number in nested:
                pending.append((nested[number], begin, stop))


@cache
def _messages() -> dict[str, dict[int, str]]:
    """Return, for each kind of message, the numbers and kinds of its fields that are messages."""
    found: dict[str, dict[int, str]] = {}
    pending: list[Any] = [onnx.ModelProto.DESCRIPTOR]
    while pending:
        descriptor = pending.pop()
        if descriptor.full_name in found:
            continue
        inner = {each.number: each.message_type for each in descriptor.fields if each.message_type}
        found[descriptor.full_name] = {number: each.full_name for number, each in inner.items()}
        pending += inner.values()
    return found
