"""Channel tracing: where each channel of a value goes through operators that only copy values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from vitedge.graph.layers import Layer, layer_behind, layer_of
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS
from vitedge.graph.values import present, shape_of

Channels = NDArray[np.int32]

ZERO = 0
"""Stands in place of a channel number: padding with zeros."""
OTHER = -1
"""Stands in place of a channel number: a value from elsewhere."""

PAD_VALUE = 2
"""The input of Pad that holds the padding value."""


def layer_source(value: ir.Value | None) -> Layer | None:
    """Give the layer from which operators that only copy values lead to a value; ``trace`` tells which channels do."""
    while value is not None:
        layer = layer_behind(value)
        producer = value.producer()
        if layer is not None or producer is None or producer.op_type not in DATA_MOVEMENT_OPERATORS:
            return layer
        value = producer.inputs[0]
    return None


@dataclass(frozen=True)
class Reading:
    """A use of traced channels by an operator that computes with them.

    Attributes:
        node: the operator; None where the value is an output of the graph.
        index: of its input.
        channels: of the shape of the value read: the channel that each element is from, counted from 1, or ``ZERO``
            or ``OTHER``.
    """

    node: ir.Node | None
    index: int
    channels: Channels

    @property
    def reader(self) -> str:
        """Name the reader."""
        return "the output" if self.node is None else self.node.op_type

    @property
    def layer(self) -> Layer | None:
        """Return the linear layer or convolution that reads the channels as its data; None for any other reader."""
        layer = layer_of(self.node) if self.index == 0 else None
        return None if layer is None or layer.node.op_type == "LayerNormalization" else layer


@dataclass(frozen=True)
class Trace:
    """Where the channels of a value go.

    Attributes:
        values: the channels of every value that holds copies of them, as in :class:`Reading`; the value is among them.
        readings: the uses of these values by operators that compute, and as outputs of the graph.
    """

    values: Mapping[ir.Value, Channels]
    readings: tuple[Reading, ...]


def numbered(value: ir.Value, axis: int) -> Channels | None:
    """Number the channels, from 1, of a value with its channels on ``axis``; None where its shape is not known."""
    shape = shape_of(value)
    if shape is None:
        return None
    along = np.arange(1, shape[axis] + 1, dtype=np.int32)
    return np.broadcast_to(along.reshape(-1, *[1] * (-axis - 1 if axis < 0 else len(shape) - axis - 1)), shape)


def trace(graph: ir.Graph, value: ir.Value, channels: Channels) -> Trace:
    """Follow channels through operators that only copy values, up to the operators that compute with them.

    These operators run on the channel numbers themselves, so that the result holds for any chain of them. Nodes within
    bodies of If and Loop count as readers.

    Args:
        graph: in topological order.
        value: where to begin.
        channels: of its shape, as in :class:`Reading`.
    """
    known, readings = {value: channels}, list[Reading]()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        traced = [index for index, each in enumerate(node.inputs) if each in known]
        if not traced:
            continue
        copied = _copied(node, known)
        if copied is None:
            readings += [Reading(node, index, known[present(node.inputs[index])]) for index in traced]
        else:
            known.update(zip(node.outputs, copied, strict=True))
    outputs = [Reading(None, 0, each) for key, each in known.items() if key.is_graph_output()]
    return Trace(known, (*readings, *outputs))


def traced_layer(graph: ir.Graph, layer: Layer) -> tuple[Reading, ...]:
    """Follow the output channels of a layer; empty where the shape of its output is not known."""
    channels = numbered(layer.output, layer.channel_axis)
    return () if channels is None else trace(graph, layer.output, channels).readings


def input_columns(layer: Layer, channels: Channels) -> Channels | None:
    """Give the channel that each input column of a layer reads, ``(in,)``, as in :class:`Reading`.

    Padding does not count beside a channel.

    Returns:
        None where a column reads several channels, or values from elsewhere.
    """
    columns = np.moveaxis(channels, layer.channel_axis, 0).reshape(channels.shape[layer.channel_axis], -1)
    highest = columns.max(axis=1)
    lowest = np.where(columns == ZERO, highest[:, None], columns).min(axis=1)
    return highest if (lowest == highest).all() and (lowest != OTHER).all() else None


def _copied(node: ir.Node, known: dict[ir.Value, Channels]) -> Sequence[Channels] | None:
    """Return the channels of a node's outputs; None if it computes, or copies the channels to unknown places."""
    if node.op_type not in DATA_MOVEMENT_OPERATORS or node.domain:
        return None
    inputs = [_copied_input(node, index, known) for index in range(len(node.inputs))]
    if any(each is None for each in inputs):
        return None
    feeds = {str(value.name): each for value, each in zip(node.inputs, inputs, strict=True) if value is not None}
    outputs = ReferenceEvaluator(ir.to_proto(node)).run(None, feeds)
    return [np.asarray(each, dtype=np.int32) for each in outputs]


def _copied_input(node: ir.Node, index: int, known: dict[ir.Value, Channels]) -> NDArray[Any] | None:
    value = node.inputs[index]
    if value is None:
        return np.empty(0)
    if value in known:
        return known[value]
    if node.op_type == "Concat":
        shape = shape_of(value)
        return None if shape is None else np.full(shape, OTHER, dtype=np.int32)
    if value.const_value is None:
        return None
    if node.op_type == "Pad" and index == PAD_VALUE:
        return np.asarray(ZERO if not value.const_value.numpy().any() else OTHER, dtype=np.int32)
    return value.const_value.numpy()
