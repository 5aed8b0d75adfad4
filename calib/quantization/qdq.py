"""QuantizeLinear and DequantizeLinear in ONNX: one pair for what is read in int8, one DequantizeLinear a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer
from vitedge.calib.quantization.placement import Layer
from vitedge.calib.quantization.working_graph import PURPOSE, WorkingGraph
from vitedge.extras import require

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Int8Weight:
    """Weights of a layer.

    Attributes:
        levels: ``(out, in)``.
        scales: ``(out,)``; all zero points are 0.
    """

    levels: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def values(self) -> NDArray[np.float64]:
        """What they stand for, ``(out, in)``."""
        return np.asarray(self.levels * self.scales[:, None], dtype=np.float64)


@dataclass(frozen=True)
class Int8Data:
    """A tensor that layers read in int8.

    Attributes:
        data: its name.
        read: the name of the quantized and dequantized one, which the layers read.
        quantizer: for all of it; the readers' biases take its shift back.
        factors: what its channels are multiplied with before, to broadcast; None for nothing.
    """

    data: str
    read: str
    quantizer: Quantizer
    factors: NDArray[np.float32] | None = None


def with_qdq(graph: WorkingGraph, data: Mapping[int, Int8Data], weights: Mapping[Layer, Int8Weight]) -> onnx.ModelProto:
    """The quantized graph.

    Args:
        graph: its layers read ``Int8Data.read`` already; its constants gain those of the quantizers.
        data: by the position of the first node that reads it.
        weights: of every int8 layer.
    """
    by_position, nodes = {layer.position: layer for layer in weights}, []
    shifts = {tensor.data: tensor.quantizer.shift for tensor in data.values()}
    for position, node in enumerate(graph.nodes):
        if position in data:
            nodes += _activation_nodes(graph, data[position])
        if position in by_position:
            layer = by_position[position]
            nodes.append(_weight_node(graph, layer, weights[layer]))
            if shifts[layer.data]:
                taken = weights[layer].values.sum(axis=1) * shifts[layer.data]
                graph.set_bias(layer, graph.bias(layer) + taken)
            node.input[1] = nodes[-1].output[0]
        nodes.append(node)
    return graph.assembled(nodes)


def _activation_nodes(graph: WorkingGraph, tensor: Int8Data) -> list[onnx.NodeProto]:
    helper = require("onnx", extra="convert", purpose=PURPOSE).helper
    kind, quantizer = np.int8 if tensor.quantizer.signed else np.uint8, tensor.quantizer
    constants = [
        graph.add(f"{tensor.data}_scale", np.asarray(quantizer.scale, np.float32)),
        graph.add(f"{tensor.data}_zero_point", np.asarray(quantizer.zero_point, kind)),
    ]
    levels, source, nodes = f"{tensor.read}_levels", tensor.data, []
    if tensor.factors is not None:
        source = f"{tensor.data}_scaled"
        factors = graph.add(f"{tensor.data}_factors", tensor.factors)
        nodes.append(helper.make_node("Mul", [tensor.data, factors], [source], f"{tensor.data}_scale_channels"))
    if quantizer.shift:
        shift = graph.add(f"{tensor.data}_shift", np.asarray(quantizer.shift, np.float32))
        nodes.append(helper.make_node("Sub", [source, shift], [f"{tensor.data}_shifted"], f"{tensor.data}_subtract"))
        source = f"{tensor.data}_shifted"
    return [
        *nodes,
        helper.make_node("QuantizeLinear", [source, *constants], [levels], f"{tensor.data}_quantize"),
        helper.make_node("DequantizeLinear", [levels, *constants], [tensor.read], f"{tensor.data}_dequantize"),
    ]


def _weight_node(graph: WorkingGraph, layer: Layer, weight: Int8Weight) -> onnx.NodeProto:
    helper = require("onnx", extra="convert", purpose=PURPOSE).helper
    name = layer.output
    constants = [
        graph.add(f"{name}_weight_int8", graph.weight_layout(layer, weight.levels)),
        graph.add(f"{name}_weight_scale", weight.scales),
        graph.add(f"{name}_weight_zero_point", np.zeros(len(weight.scales), np.int8)),
    ]
    values = f"{name}_weight_values"
    node: onnx.NodeProto = helper.make_node(
        "DequantizeLinear", constants, [values], f"{layer.name}_dequantize_weight", axis=layer.out_axis
    )
    return node
