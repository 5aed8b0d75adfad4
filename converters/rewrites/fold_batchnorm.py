"""BatchNormalization into the weights of the layer before it, or of the layers after it.

``γ·(x − μ)/√(σ² + ε) + β`` is a factor and an offset for each channel. The layer that produces ``x`` takes both; else
all layers that read the result do, if none of them pads; a mean over pixels may lie in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.channels import Channels, input_columns, layer_source, numbered, trace, traced_layer
from vitedge.graph.edit import bypass
from vitedge.graph.layers import Layer
from vitedge.graph.values import Array, constant

CHANNEL_AXIS = 1
COMPUTED = "the parameters of a BatchNormalization are computed"
NO_LAYER = "no layer beside a BatchNormalization can take it in"


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a layer produces the input of a BatchNormalization, or only layers read its output.
    """
    return refusal(_folds(model.graph), nothing="there is no BatchNormalization")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Fold each that can be folded."""
    return apply_all(model, _folds(model.graph))


@dataclass(frozen=True)
class _Affine:
    """``factor · x + offset``, of a value's channels or of a layer's; both ``(C,)``."""

    factor: Array
    offset: Array

    def of(self, channels: Channels) -> _Affine:
        """Give factor and offset of other channels, by their numbers here, from 1."""
        return _Affine(self.factor[channels - 1], self.offset[channels - 1])


@dataclass(frozen=True)
class _IntoMaker:
    """Folded into the layer that produces the input of the normalization."""

    node: ir.Node
    layer: Layer
    affine: _Affine

    def apply(self, model: ir.Model) -> None:
        scaled = self.layer.scale_outputs(model, self.affine.factor)
        scaled.set_bias(model, scaled.bias + self.affine.offset)
        bypass(model, self.node, _data(self.node))


@dataclass(frozen=True)
class _IntoReaders:
    """Folded into all layers that read the normalized value, each for the channels of its inputs."""

    node: ir.Node
    layers: Sequence[tuple[Layer, _Affine]]

    def apply(self, model: ir.Model) -> None:
        for layer, affine in self.layers:
            layer.shift_inputs(model, affine.offset)
            layer.set_weight(model, layer.weight * layer.input_weight(affine.factor))
        bypass(model, self.node, _data(self.node))


def _folds(graph: ir.Graph) -> Iterator[_IntoMaker | _IntoReaders | str]:
    return (_fold(graph, node) for node in list(graph) if node.op_type == "BatchNormalization")


def _fold(graph: ir.Graph, node: ir.Node) -> _IntoMaker | _IntoReaders | str:
    affine = _affine(node)
    if affine is None:
        return COMPUTED
    return _into_maker(graph, node, affine) or _into_readers(graph, node, affine) or NO_LAYER


def _affine(node: ir.Node) -> _Affine | None:
    scale, bias, mean, variance = map(constant, node.inputs[1:5])
    if scale is None or bias is None or mean is None or variance is None:
        return None
    factor = scale / np.sqrt(variance + (node.attributes.get_float("epsilon", 1e-5) or 0.0))
    return _Affine(factor, bias - mean * factor)


def _data(node: ir.Node) -> ir.Value:
    (value, *_) = node.inputs
    if value is None:
        raise ValueError(f"{node.name} normalizes nothing")
    return value


def _into_maker(graph: ir.Graph, node: ir.Node, affine: _Affine) -> _IntoMaker | None:
    layer = layer_source(_data(node))
    readings = () if layer is None else traced_layer(graph, layer)
    if layer is None or len(readings) != 1 or readings[0].node is not node:
        return None
    (reading,) = readings
    rows = np.moveaxis(reading.channels, CHANNEL_AXIS, 0).reshape(len(affine.factor), -1)
    made = rows[:, 0]
    if (rows != made[:, None]).any() or sorted(made) != list(range(1, len(layer.weight) + 1)):
        return None
    return _IntoMaker(node, layer, affine.of(np.argsort(made).astype(np.int32) + 1))


def _into_readers(graph: ir.Graph, node: ir.Node, affine: _Affine) -> _IntoReaders | None:
    value = _averaged(node.outputs[0])
    channels = numbered(value, CHANNEL_AXIS)
    readings = () if channels is None else trace(graph, value, channels).readings
    layers: list[tuple[Layer, _Affine]] = []
    for reading in readings:
        layer = reading.layer
        if layer is None or layer.pads():
            return None
        columns = input_columns(layer, reading.channels)
        if columns is None or (reading.channels <= 0).any():
            return None
        layers.append((layer, affine.of(columns)))
    return _IntoReaders(node, layers) if layers else None


def _averaged(value: ir.Value) -> ir.Value:
    """Return the mean over pixels if it is a value's only reader, because BatchNormalization commutes with it."""
    readers = value.consumers()
    if len(readers) != 1 or value.is_graph_output():
        return value
    (reader,) = readers
    axes = constant(reader.inputs[1]) if len(reader.inputs) > 1 else None
    rank = len(value.shape or ())
    over_pixels = (
        reader.op_type == "ReduceMean" and axes is not None and all(axis % rank > CHANNEL_AXIS for axis in axes)
    )
    return reader.outputs[0] if over_pixels or reader.op_type == "GlobalAveragePool" else value
