"""Changes to a graph: constants added, replaced and dropped, nodes bypassed and replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.graph.values import values_read


def add_constant(model: ir.Model, name: str, values: NDArray[Any]) -> ir.Value:
    """Add a float32 initializer; underscores follow the name where it is taken."""
    return add_tensor(model.graph, name, values.astype(np.float32))


def add_tensor(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """Add an initializer of the type that the values have; underscores follow the name where it is taken."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(values, name=name)
    value = ir.val(name, tensor.dtype, list(values.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_constant(model: ir.Model, node: ir.Node, index: int, name: str, values: NDArray[Any]) -> None:
    """Give an input of a node new float32 values; other readers of the old values keep them."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    node.replace_input_with(index, add_constant(model, name, values))
    drop_unused(model, old)


def drop_input(model: ir.Model, node: ir.Node, index: int) -> None:
    """Remove an input of a node, and all behind it."""
    dropped = node.inputs[index:]
    node.resize_inputs(index)
    for value in dropped:
        drop_unused(model, value)


def drop_unused(model: ir.Model, value: ir.Value | None) -> None:
    """Remove an initializer that nothing reads."""
    if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
        model.graph.initializers.pop(str(value.name))


def order_initializers(graph: ir.Graph) -> None:
    """Sort the initializers into the order in which nodes read them; remove unread initializers."""
    read = dict.fromkeys(value for node in graph for value in values_read(node) if value.is_initializer())
    kept = [value for value in read if graph.initializers.get(str(value.name)) is value]
    kept += [value for value in graph.outputs if value.is_initializer() and value not in read]
    graph.initializers.clear()
    for value in kept:
        graph.register_initializer(value)


def bypass(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Remove a node of one output; its readers read ``value`` instead."""
    inputs = tuple(node.inputs)
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    for each in inputs:
        drop_unused(model, each)


def replace_value(
    model: ir.Model, value: ir.Value, op_type: str, inputs: Sequence[ir.Value], **attributes: Any
) -> None:
    """Have one new operator produce a value for all its readers; its former producer stays, unread.

    Args:
        model: changed in place.
        value: produced by a node of the graph.
        op_type: of the new operator.
        inputs: of the new operator; the output has type and shape of the first.
        attributes: of the new operator.

    Raises:
        ValueError: no node produces the value.
    """
    last = value.producer()
    if last is None:
        raise ValueError(f"no node produces {value.name}")
    output = ir.val(f"{value.name}_fused", inputs[0].dtype, inputs[0].shape)
    node = ir.node(op_type, inputs, attributes, outputs=[output], name=output.name)
    model.graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(value, output, replace_graph_outputs=True)
