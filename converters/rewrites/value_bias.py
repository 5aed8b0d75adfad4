"""The bias of the values into that of the output projection.

The weights of a query sum to 1: ``softmax(…)·(v + b) = softmax(…)·v + b``, and ``W·b`` joins the projection's bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.converters.rewrites.graph import (
    ZERO,
    Channels,
    Layer,
    Reading,
    input_columns,
    shape_of,
    trace,
)
from vitedge.converters.rewrites.operand_bias import OperandBias, along, operand_bias, softmaxes
from vitedge.converters.rewrites.places import Places, all_of, apply_all, refusal
from vitedge.preprocessing import Preprocessing


@dataclass(frozen=True)
class _Fold:
    """The values' bias and the layers that read the attention, each with the channel that each of its columns reads."""

    bias: OperandBias
    readers: tuple[tuple[Layer, Channels], ...]

    def apply(self, model: ir.Model) -> None:
        values = self.bias.layer.bias
        for reader, columns in self.readers:
            reader.shift_inputs(model, along(values, columns))
        self.bias.apply(model)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where a layer makes the values, with a bias that nothing else reads, and layers read the attention."""
    return refusal(_folds(model.graph), nothing="no values have a bias")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Move the bias of the values; a layer whose whole bias is zero loses it."""
    return apply_all(model, _folds(model.graph))


def _folds(graph: ir.Graph) -> Iterator[_Fold | str]:
    for softmax in list(softmaxes(graph)):
        weights = softmax.outputs[0]
        for product in weights.consumers():
            if product.op_type != "MatMul" or product.inputs[0] is not weights:
                yield f"{product.op_type} comes between the softmax and the values"
                continue
            bias = operand_bias(graph, product, 1, tokens=-2)
            if isinstance(bias, str):
                yield bias
            elif not bias.is_zero:
                yield _fold(graph, product, bias)


def _fold(graph: ir.Graph, product: ir.Node, bias: OperandBias) -> _Fold | str:
    attention = product.outputs[0]
    shape = shape_of(attention)
    if shape is None:
        return "the shape of the attention is not known"
    channels = np.broadcast_to(bias.channels.take([0], axis=-2), shape)
    readers = all_of(map(_reader, trace(graph, attention, channels)))
    return readers if isinstance(readers, str) else _Fold(bias, readers)


def _reader(reading: Reading) -> tuple[Layer, Channels] | str:
    layer = reading.layer
    if layer is None:
        return f"{reading.reader} reads the attention, not a layer with constant weights"
    columns = input_columns(layer, reading.channels)
    if columns is None or layer.pads() or (reading.channels == ZERO).any():
        return f"{reading.reader} reads more than the attention"
    return layer, columns
