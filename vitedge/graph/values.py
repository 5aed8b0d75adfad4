"""Values of a graph: constants, static shapes, producers and readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.graph.operators import is_standard

Array = NDArray[np.float64]


def constant(value: ir.Value | None) -> Array | None:
    """Read an initializer as float64; None for a computed or an absent value."""
    array = constant_array(value)
    return None if array is None else np.asarray(array, dtype=np.float64)


def constant_array(value: ir.Value | None) -> NDArray[Any] | None:
    """Read an initializer in its own type; None for a computed or an absent value."""
    return None if value is None or value.const_value is None else np.asarray(value.const_value.numpy())


def constant_or_initializer(value: ir.Value | None) -> NDArray[Any] | None:
    """Read an initializer or the output of a Constant node in its own type; None for another or an absent value."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Give the shape of an initializer without reading its data; None for a computed or an absent value."""
    if value is None or value.const_value is None:
        return None
    return tuple(int(size) for size in value.const_value.shape.numpy())


def shape_of(value: ir.Value) -> tuple[int, ...] | None:
    """Give the static shape of a value; None where it is not known."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def present(value: ir.Value | None) -> ir.Value:
    """Give a value that is not absent.

    Raises:
        ValueError: the operator has no such input.
    """
    if value is None:
        raise ValueError("no such input")
    return value


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Give the standard operator that produces a value, if it is one of these types."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types and is_standard(node.domain) else None


def is_read_once(value: ir.Value) -> bool:
    """Decide whether exactly one input of one node reads a value, and no output of the graph is it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def comes_from(value: ir.Value, wanted: Callable[[ir.Node], bool], *, through: Callable[[ir.Node], bool]) -> bool:
    """Decide whether a wanted operator produces a value, directly or before operators that ``through`` lets pass."""
    seen, values = set[ir.Node](), [value]
    while values:
        node = values.pop().producer()
        if node is None or node in seen:
            continue
        if wanted(node):
            return True
        seen.add(node)
        if through(node):
            values += [each for each in node.inputs if each is not None]
    return False


def leads_to(value: ir.Value, wanted: Callable[[ir.Node], bool], *, through: Callable[[ir.Node], bool]) -> bool:
    """Decide whether a wanted operator reads a value, directly or behind operators that ``through`` lets pass."""
    seen, values = set[ir.Node](), [value]
    while values:
        for node in values.pop().consumers():
            if wanted(node):
                return True
            if node not in seen and through(node):
                seen.add(node)
                values += node.outputs
    return False


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Give the values that a node reads, and the outer values that its If and Loop bodies capture.

    A value comes once for every input that reads it.
    """
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        yield from _captured(body)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Give the graphs that a node holds, such as the branches of an If."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _captured(body: ir.Graph) -> Iterator[ir.Value]:
    own = {*body.inputs, *body.initializers.values(), *(output for node in body for output in node.outputs)}
    read = (value for node in body for value in values_read(node))
    yield from (value for value in (*read, *body.outputs) if value not in own)
