"""A graph and its weights apart, because a serialized graph holds 2 GB at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

INLINE_BYTES = 1024
"""Smaller constants stay in the graph: shapes and axes, which ONNX Runtime reads before it is handed any weights."""

HANDED_TYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int32", "int64"})
"""The types that ONNX Runtime takes from numpy; constants of other types stay in the graph."""

Weights = dict[str, NDArray[Any]]


def split_weights(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, Weights]:
    """Copy a graph without its weights; returns the copy and the weights by name.

    Constants that nothing reads are in neither: ONNX Runtime drops them, and then refuses their values.
    """
    light = copy_without_weights(graph)
    weights: Weights = {}
    read = {*_names_read(graph.graph), *(output.name for output in graph.graph.output)}
    for tensor in graph.graph.initializer:
        if tensor.name in read:
            add_initializer(light.graph, weights, ir.from_proto(tensor), tensor.name)
    return light, weights


def copy_without_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph without its constants."""
    light: onnx.ModelProto = _copy_without(graph, "graph")
    light.graph.CopyFrom(_copy_without(graph.graph, "initializer"))
    return light


def add_initializer(graph: onnx.GraphProto, weights: Weights, tensor: ir.TensorProtocol, name: str) -> None:
    """Add a small constant to a graph; add a reference to a large one, and put its values into ``weights``."""
    added = graph.initializer.add()
    if tensor.nbytes < INLINE_BYTES or tensor.dtype.numpy().name not in HANDED_TYPES:
        ir.serde.serialize_tensor_into(added, tensor)
    else:
        weights[name] = np.ascontiguousarray(tensor.numpy())
        added.data_type, added.data_location = int(tensor.dtype), added.EXTERNAL
        added.dims.extend(weights[name].shape)
        added.external_data.add(key="location", value="handed over beside the graph")
    added.name = name


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that the nodes of a graph read, and the nodes and results of If and Loop bodies."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _names_read(body)
                yield from (output.name for output in body.output)


def _copy_without(message: Any, field: str) -> Any:
    """Copy all fields but one: to delete that field from a full copy would copy it first."""
    return type(message)(**{each.name: value for each, value in message.ListFields() if each.name != field})
