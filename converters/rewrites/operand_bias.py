"""The part of a layer's bias that reaches one operand of a product, equal for all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.converters.rewrites.graph import OTHER, ZERO, Array, Channels, Layer, layer_source, shape_of, traced_layer


@dataclass(frozen=True)
class OperandBias:
    """A bias that an operand of a product carries.

    Attributes:
        layer: whose bias it is; a part of it, where the layer makes other operands too.
        channels: of the operand's shape: the channel of the layer that each element is from, counted from 1.
    """

    layer: Layer
    channels: Channels

    @property
    def is_zero(self) -> bool:
        """Whether there is nothing to move."""
        return not self.layer.bias[self.channels - 1].any()

    def apply(self, model: ir.Model) -> None:
        """Make it zero."""
        bias = np.array(self.layer.bias, dtype=np.float64)
        bias[self.channels - 1] = 0
        self.layer.set_bias(model, bias)


def operand_bias(graph: ir.Graph, product: ir.Node, index: int, tokens: int) -> OperandBias | str:
    """The bias of an operand, or why it cannot be told apart.

    Args:
        graph: of the product.
        product: MatMul.
        index: of the operand.
        tokens: the axis along which the bias must be the same.
    """
    layer = layer_source(product.inputs[index])
    if layer is None:
        return "the operand is not made by a layer with constant weights"
    readings = traced_layer(graph, layer)
    mine = [each for each in readings if each.node is product and each.index == index]
    if len(mine) != 1:
        return "the shape of the operand is not known"
    channels = mine[0].channels
    if (channels == OTHER).any() or (channels == ZERO).any():
        return "other values, or padding, join after the layer"
    if (channels != channels.take([0], axis=tokens)).any():
        return "the channels differ from token to token"
    for other in readings:
        if other is not mine[0] and np.isin(other.channels, channels).any():
            return f"{other.reader} reads the same channels"
    return OperandBias(layer, channels)


def softmaxes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every softmax over the last axis."""
    for node in graph:
        shape = shape_of(node.outputs[0]) if node.op_type == "Softmax" else None
        if shape is not None and node.attributes.get_int("axis", -1) in (-1, len(shape) - 1):
            yield node


def along(values: Array, channels: Channels) -> Array:
    """A value for each channel, laid out as the channels are; 0 where there is none."""
    return np.insert(values, ZERO, 0.0)[channels]
