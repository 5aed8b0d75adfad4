"""Scale and shift of a LayerNormalization into the layers that read it.

``W·(γ·x̂ + β) + b`` is ``(W·γ)·x̂ + (W·β + b)``. The LayerNormalization stays one operator, with γ = 1 and no β. A
layer without a bias would need an addition for one, which the LayerNormalization does better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, all_of, apply_all, refusal
from vitedge.graph.channels import ZERO, Channels, Reading, input_columns, traced_layer
from vitedge.graph.layers import Layer, layer_of
from vitedge.graph.values import Array


@dataclass(frozen=True)
class _Fold:
    """A normalization and its readers, each with the channel that each of its columns reads."""

    normalization: Layer
    readers: tuple[tuple[Layer, Channels], ...]

    def apply(self, model: ir.Model) -> None:
        scale, shift = self.normalization.weight, self.normalization.bias
        for reader, columns in self.readers:
            shifted = reader.shift_inputs(model, np.insert(shift, ZERO, 0.0)[columns])
            factors = shifted.input_weight(np.insert(scale, ZERO, 1.0)[columns])
            shifted.set_weight(model, shifted.weight * factors)
        self.normalization.set_weight(model, np.ones(len(scale)))
        self.normalization.set_bias(model, np.zeros(len(scale)))


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where only layers with constant weights read the output, each column of theirs one channel.
    """
    return refusal(_folds(model.graph), nothing="no LayerNormalization scales or shifts")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Scale the columns of the readers' weights, and add what the shift made to their biases."""
    return apply_all(model, _folds(model.graph))


def _folds(graph: ir.Graph) -> Iterator[_Fold | str]:
    layers = [layer_of(node) for node in graph if node.op_type == "LayerNormalization"]
    return (_fold(graph, each) for each in layers if each is not None and ((each.weight != 1).any() or each.bias.any()))


def _fold(graph: ir.Graph, normalization: Layer) -> _Fold | str:
    readings = traced_layer(graph, normalization)
    if not readings:
        return "the shape of its output is not known"
    readers = all_of(_reader(reading, normalization.bias) for reading in readings)
    return readers if isinstance(readers, str) else _Fold(normalization, readers)


def _reader(reading: Reading, shift: Array) -> tuple[Layer, Channels] | str:
    layer = reading.layer
    if layer is None:
        return f"{reading.reader} reads it, not a layer with constant weights"
    columns = input_columns(layer, reading.channels)
    if columns is None:
        return f"a column of {reading.reader} reads several channels"
    if shift.any() and layer.node.op_type == "MatMul" and layer.add is None:
        return "MatMul reads it and has no bias to take the shift in"
    if shift.any() and (layer.pads() or (reading.channels == ZERO).any()):
        return f"{reading.reader} reads it padded with zeros, which the shift would change"
    return layer, columns
