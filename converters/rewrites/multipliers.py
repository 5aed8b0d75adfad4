"""Multiplications by constants, and the layers before them that can do them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.graph.channels import OTHER, ZERO, Reading, layer_source, traced_layer
from vitedge.graph.edit import bypass
from vitedge.graph.layers import Layer
from vitedge.graph.values import Array, constant


@dataclass(frozen=True)
class Multiplier:
    """Mul of computed values by a constant, or Div.

    Attributes:
        node: the operator.
        index: of the input that holds the values.
        factors: that they are multiplied by.
    """

    node: ir.Node
    index: int
    factors: Array

    @property
    def value(self) -> ir.Value:
        """Return the value that is multiplied."""
        value = self.node.inputs[self.index]
        if value is None:
            raise ValueError(f"{self.node} multiplies nothing")
        return value


def multiplier_of(node: ir.Node | None) -> Multiplier | None:
    """Read a node as a multiplier, if it is one."""
    if node is None or node.op_type not in ("Mul", "Div") or node.domain:
        return None
    left, right = map(constant, node.inputs)
    if left is None and right is not None:
        with np.errstate(divide="ignore"):
            return Multiplier(node, 0, right if node.op_type == "Mul" else 1 / right)
    if right is None and left is not None and node.op_type == "Mul":
        return Multiplier(node, 1, left)
    return None


@dataclass(frozen=True)
class Fold:
    """A multiplier and the layer that can do its work.

    Attributes:
        multiplier: is removed.
        layer: its output channels are scaled.
        factors: ``(out,)``.
    """

    multiplier: Multiplier
    layer: Layer
    factors: Array

    def apply(self, model: ir.Model) -> None:
        """Scale the layer and remove the multiplier."""
        self.layer.scale_outputs(model, self.factors)
        bypass(model, self.multiplier.node, self.multiplier.value)


def fold(graph: ir.Graph, multiplier: Multiplier) -> Fold | str:
    """Find how the layer before a multiplier can take it in, or give the reason why it cannot."""
    return fold_at(graph, multiplier, multiplier.node, multiplier.index)


def fold_at(graph: ir.Graph, multiplier: Multiplier, reader: ir.Node, index: int) -> Fold | str:
    """Find the same for a multiplier that might as well multiply an input of another node, the reader."""
    value = reader.inputs[index]
    layer = layer_source(value)
    if layer is None:
        return f"{_maker(value)} makes what is multiplied, not a layer with constant weights"
    readings = traced_layer(graph, layer)
    mine = [reading for reading in readings if reading.node is reader and reading.index == index]
    if len(mine) != 1:
        return "the shape of what is multiplied is not known"
    (reading,) = mine
    others = [each for each in readings if each is not reading]
    return _blocked(reading, others) or _fold(multiplier, layer, reading)


def _maker(value: ir.Value | None) -> str:
    producer = value.producer() if value is not None else None
    return "an input" if producer is None else producer.op_type


def _blocked(reading: Reading, others: list[Reading]) -> str:
    if (reading.channels == OTHER).any():
        return "other values join before the multiplication"
    for other in others:
        if np.isin(other.channels, reading.channels[reading.channels != ZERO]).any():
            return f"{other.reader} reads the same channels without it"
    return ""


def _fold(multiplier: Multiplier, layer: Layer, reading: Reading) -> Fold | str:
    try:
        wanted = np.broadcast_to(multiplier.factors, reading.channels.shape)
    except ValueError:
        return "the multiplication widens its input"
    factors = np.ones(len(layer.weight) + 1)
    factors[reading.channels] = wanted
    if not np.isfinite(factors).all():
        return "it divides by zero"
    if ((factors[reading.channels] != wanted) & (reading.channels != ZERO)).any():
        return "the factors differ within a channel"
    return Fold(multiplier, layer, factors[1:])
