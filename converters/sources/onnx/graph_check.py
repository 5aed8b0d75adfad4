"""Check an untrusted ONNX graph before any part of it is inlined, allocated or run.

Functions that call functions twice grow exponentially when they are inlined, a loop may never end, and a tensor may
claim more numbers than the file holds. This module counts all of this on the parsed graph. A sandbox (``worker``)
measures how much memory and time the graph takes when it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from vitedge.graph.operators import is_standard
from vitedge.safety.escape import terminal
from vitedge.safety.limits import (
    GRAPH_BYTES,
    GRAPH_DEPTH,
    GRAPH_NAME_CHARACTERS,
    GRAPH_NODES,
    TENSOR_DIMENSIONS,
)

LOOPS = ("Loop", "Scan", "SequenceMap")
BITS: Mapping[int, int] = {
    TensorProto.DOUBLE: 64,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.FLOAT: 32,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
"""Bits of a number, by type. Strings, complex numbers and newer types are not supported."""
TYPED: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
"""Field for numbers that are not raw bytes; all other types use ``int32_data``."""

Function = tuple[str, str, str]


class GraphError(ValueError):
    """A graph that vitedge does not support."""


@dataclass(frozen=True)
class _Size:
    """Size of a part of a graph, with all functions inlined.

    Attributes:
        nodes: number of nodes, including nested ones.
        depth: nesting of graphs and functions.
        data: bytes of all tensors.
        outside: bytes of tensors with external data.
    """

    nodes: int = 0
    depth: int = 0
    data: int = 0
    outside: int = 0

    def plus(self, other: _Size) -> _Size:
        """Add another part.

        Raises:
            GraphError: the sum exceeds a limit.
        """
        both = _Size(
            self.nodes + other.nodes,
            max(self.depth, other.depth),
            self.data + other.data,
            self.outside + other.outside,
        )
        if both.nodes > GRAPH_NODES:
            raise GraphError(f"it has more than {GRAPH_NODES} nodes, including those of functions")
        if both.depth > GRAPH_DEPTH:
            raise GraphError(f"its graphs and functions lie more than {GRAPH_DEPTH} deep within each other")
        if both.data > GRAPH_BYTES:
            raise GraphError(f"its tensors have more than {GRAPH_BYTES} bytes, including those of functions")
        return both

    def nested(self) -> _Size:
        """Return the same size, one level deeper."""
        return _Size(self.nodes, self.depth + 1, self.data, self.outside)


@dataclass(frozen=True)
class GraphSize:
    """Size of a graph's file.

    Attributes:
        nodes: number of nodes; nodes of branches and functions count once.
        outside: bytes of external data.
    """

    nodes: int
    outside: int


def check_graph(model: onnx.ModelProto) -> GraphSize:
    """Refuse a graph with parts that no classifier needs, or beyond ``vitedge.safety.limits``.

    Raises:
        GraphError: the graph is refused; the message says why.
    """
    if model.training_info:
        raise GraphError("it has training steps")
    for imported in model.opset_import:
        _check_names([imported.domain])
    functions = {_identity(each.domain, each.name, each.overload): each for each in model.functions}
    if len(functions) < len(model.functions):
        raise GraphError("two of its functions have one name")
    counter = _Counter(functions)
    size = counter.graph(model.graph, 0)
    for function in functions:
        counter.function(function, 0)
    return GraphSize(counter.written, size.outside)


def _identity(domain: str, name: str, overload: str) -> Function:
    return "" if is_standard(domain) else domain, name, overload


@dataclass
class _Counter:
    """Counts and checks every part of a graph once.

    Attributes:
        functions: functions that the file defines.
        counted: sizes of the functions counted so far.
        calls: stack of functions that are being counted.
        written: number of nodes counted so far.
    """

    functions: Mapping[Function, FunctionProto]
    counted: dict[Function, _Size] = field(default_factory=dict)
    calls: list[Function] = field(default_factory=list)
    written: int = 0

    def graph(self, graph: GraphProto, depth: int) -> _Size:
        """Count a graph with its tensors."""
        _check_names([graph.name])
        _check_values([*graph.input, *graph.output, *graph.value_info])
        if graph.sparse_initializer:
            raise GraphError("it has sparse tensors")
        size = _Size()
        for tensor in graph.initializer:
            if not tensor.name:
                raise GraphError("a tensor of it has no name")
            size = size.plus(_tensor(tensor))
        return size.plus(self.nodes(graph.node, depth))

    def function(self, function: Function, depth: int) -> _Size:
        """Count a function and the functions that it calls."""
        if function in self.calls:
            raise GraphError(f"its function {function[1]:.200} calls itself")
        if function not in self.counted:
            body = self.functions[function]
            _check_names([body.name, body.domain, body.overload, *body.input, *body.output, *body.attribute])
            _check_values(body.value_info)
            self.calls.append(function)
            size = self.nodes(body.node, depth)
            for attribute in body.attribute_proto:
                size = size.plus(self.attribute(attribute, depth))
            self.counted[function] = size
            self.calls.pop()
        return self.counted[function]

    def nodes(self, nodes: Iterable[NodeProto], depth: int) -> _Size:
        """Count nodes with their attributes and the functions that they call."""
        if depth > GRAPH_DEPTH:
            raise GraphError(f"its graphs and functions lie more than {GRAPH_DEPTH} deep within each other")
        size = _Size()
        for node in nodes:
            _check_node(node)
            self.written += 1
            size = size.plus(_Size(nodes=1))
            for attribute in node.attribute:
                size = size.plus(self.attribute(attribute, depth))
            function = _identity(node.domain, node.op_type, node.overload)
            if function in self.functions:
                size = size.plus(self.function(function, depth + 1).nested())
        return size

    def attribute(self, attribute: AttributeProto, depth: int) -> _Size:
        """Count graphs and tensors of an attribute."""
        _check_names([attribute.name, attribute.ref_attr_name])
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise GraphError("it has sparse tensors")
        size = _Size()
        for tensor in _tensors_of_attribute(attribute):
            size = size.plus(_tensor(tensor))
        for graph in _graphs_of_attribute(attribute):
            size = size.plus(self.graph(graph, depth + 1).nested())
        return size


def _check_node(node: NodeProto) -> None:
    _check_names([node.name, node.op_type, node.domain, node.overload, *node.input, *node.output])
    if not node.op_type or not any(node.output):
        raise GraphError(f"its node {node.name!r:.200} has no operator, or no output")
    if node.op_type in LOOPS and is_standard(node.domain):
        raise GraphError(
            f"its node {node.name or node.output[0]!r:.200} is a {node.op_type}: a loop, which may never end"
        )


def _check_names(names: Iterable[str | bytes]) -> None:
    for name in names:
        if isinstance(name, bytes):  # protobuf returns bytes that are not UTF-8
            raise GraphError(f"the name {name!r:.200} of it is no text")
        if len(name) > GRAPH_NAME_CHARACTERS:
            raise GraphError(
                f"the name {name[:60]!r}… of it has {len(name)} characters; the limit is {GRAPH_NAME_CHARACTERS}"
            )
        if not name.isprintable() and terminal(name) != name:
            raise GraphError(f"the name {name!r:.200} of it has control characters")


def _check_values(values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        if not value.name:
            raise GraphError("an input or output of it has no name")
        shape = value.type.tensor_type.shape.dim
        if len(shape) > TENSOR_DIMENSIONS:
            raise GraphError(f"{value.name:.200} of it has {len(shape)} dimensions; the limit is {TENSOR_DIMENSIONS}")
        _check_names([value.name, *(dimension.dim_param for dimension in shape)])


def _tensor(tensor: TensorProto) -> _Size:
    """Check that a tensor has all its numbers, and return its size."""
    _check_names([tensor.name, *(text for entry in tensor.external_data for text in (entry.key, entry.value))])
    wanted = tensor_bytes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _Size(data=wanted, outside=wanted)
    if tensor.external_data:
        raise GraphError(
            f"its tensor {tensor.name!r:.200} has its numbers in the graph, but also names a file for them"
        )
    typed = getattr(tensor, TYPED.get(tensor.data_type, "int32_data"))
    packed = max(1, 8 // BITS[tensor.data_type])
    found = len(tensor.raw_data) if tensor.HasField("raw_data") else len(typed) * BITS[tensor.data_type] * packed // 8
    if tensor.HasField("segment") or found != wanted:
        raise GraphError(
            f"its tensor {tensor.name!r:.200} of the shape {tuple(tensor.dims)} takes {wanted} bytes, and has {found}"
        )
    return _Size(data=wanted)


def tensor_bytes(tensor: TensorProto) -> int:
    """Return the size of a tensor in bytes, by its shape and type.

    Raises:
        GraphError: the shape is invalid, or the type is not supported.
    """
    if len(tensor.dims) > TENSOR_DIMENSIONS or any(size < 0 for size in tensor.dims):
        raise GraphError(f"its tensor {tensor.name!r:.200} has the shape {tuple(tensor.dims[:20])!s:.200}")
    bits = BITS.get(tensor.data_type)
    if bits is None:
        raise GraphError(f"its tensor {tensor.name!r:.200} is of the type {type_name(tensor.data_type)}")
    return int(math.prod(tensor.dims) * bits + 7) // 8


def type_name(number: int) -> str:
    """Return ONNX's name of a type, or its number if it has no name."""
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield all tensors of a checked graph, including attributes, branches and functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)
        for attribute in function.attribute_proto:
            yield from _tensors_within(attribute)


def _tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _tensors_within(attribute)


def _tensors_within(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from _tensors_of_attribute(attribute)
    for graph in _graphs_of_attribute(attribute):
        yield from _tensors_of_graph(graph)


def _tensors_of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def _graphs_of_attribute(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield all nodes of a checked graph, including branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in _graphs_of_attribute(attribute):
                yield from nodes_of(inner)
