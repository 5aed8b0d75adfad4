"""Q/DQ insertion: a pair for each tensor that layers read in 8 bits, one DequantizeLinear for each 8-bit weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Levels, Quantizer, dequantized
from vitedge.graph.edit import add_tensor, drop_unused
from vitedge.graph.layers import Layer


@dataclass(frozen=True)
class QuantizedWeight:
    """Weights of a layer.

    Attributes:
        levels: ``(out, in / groups · kernel)``.
        scales: ``(out,)``; all zero points are 0.
    """

    levels: Levels
    scales: NDArray[np.float32]

    @property
    def values(self) -> NDArray[np.float64]:
        """Return the dequantized weights, in the shape of the levels."""
        return dequantized(self.levels, self.scales).astype(np.float64)


@dataclass(frozen=True)
class QuantizedData:
    """A tensor that layers read in 8 bits.

    Attributes:
        data: the tensor.
        read: the quantized and dequantized one, which the layers read; no node produces it yet.
        quantizer: for all of it; the readers' biases take its shift back.
        factors: multiply its channels before, to broadcast; None for nothing.
        centre: is subtracted from its channels before, to broadcast; the readers' biases hold it. None for nothing.
    """

    data: ir.Value
    read: ir.Value
    quantizer: Quantizer
    factors: NDArray[np.float32] | None = None
    centre: NDArray[np.float32] | None = None


def insert_qdq(model: ir.Model, data: Mapping[Layer, QuantizedData], weights: Mapping[Layer, QuantizedWeight]) -> None:
    """Insert the quantizers.

    Args:
        model: changed in place. Its layers read ``QuantizedData.read`` already.
        data: by the first layer that reads it.
        weights: of every quantized layer, in the graph's order.
    """
    shifts = {tensor.read: tensor.quantizer.shift for tensor in data.values()}
    for layer, weight in weights.items():
        if layer in data:
            model.graph.insert_before(layer.node, _activation_nodes(model.graph, data[layer]))
        if shifts[layer.data]:
            taken = weight.values.sum(axis=1) * shifts[layer.data]
            layer.replace_bias(model, layer.bias + taken)
        insert_weight(model, layer, weight)


def insert_weight(model: ir.Model, layer: Layer, weight: QuantizedWeight) -> None:
    """Replace the weights of a layer by 8-bit weights and their DequantizeLinear; its input stays as it is."""
    dequantize = _weight_node(model.graph, layer, weight)
    model.graph.insert_before(layer.node, dequantize)
    full = layer.node.inputs[1]
    layer.node.replace_input_with(1, dequantize.outputs[0])
    drop_unused(model, full)


def _activation_nodes(graph: ir.Graph, tensor: QuantizedData) -> list[ir.Node]:
    quantizer, name = tensor.quantizer, tensor.data.name
    constants = [
        add_tensor(graph, f"{name}_scale", np.asarray(quantizer.scale, np.float32)),
        add_tensor(graph, f"{name}_zero_point", np.asarray(quantizer.zero_point, quantizer.grid.dtype)),
    ]
    nodes: list[ir.Node] = []
    source = tensor.data
    if tensor.factors is not None:
        factors = add_tensor(graph, f"{name}_factors", tensor.factors)
        nodes.append(_node("Mul", [source, factors], f"{name}_scaled", f"{name}_scale_channels"))
        source = nodes[-1].outputs[0]
    if tensor.centre is not None:
        centre = add_tensor(graph, f"{name}_centre", tensor.centre)
        nodes.append(_node("Sub", [source, centre], f"{name}_centred", f"{name}_subtract"))
        source = nodes[-1].outputs[0]
    if quantizer.shift:
        shift = add_tensor(graph, f"{name}_shift", np.asarray(quantizer.shift, np.float32))
        nodes.append(_node("Sub", [source, shift], f"{name}_shifted", f"{name}_subtract"))
        source = nodes[-1].outputs[0]
    quantize = _node("QuantizeLinear", [source, *constants], f"{tensor.read.name}_levels", f"{name}_quantize")
    levels = quantize.outputs[0]
    dequantize = ir.node("DequantizeLinear", [levels, *constants], outputs=[tensor.read], name=f"{name}_dequantize")
    return [*nodes, quantize, dequantize]


def _weight_node(graph: ir.Graph, layer: Layer, weight: QuantizedWeight) -> ir.Node:
    name = layer.node.outputs[0].name
    constants = [
        add_tensor(graph, f"{name}_weight_{weight.levels.dtype.name}", layer.stored(weight.levels)),
        add_tensor(graph, f"{name}_weight_scale", weight.scales),
        add_tensor(graph, f"{name}_weight_zero_point", np.zeros(len(weight.scales), weight.levels.dtype)),
    ]
    values = ir.val(f"{name}_weight_values")
    return ir.node(
        "DequantizeLinear",
        constants,
        {"axis": layer.out_axis},
        outputs=[values],
        name=f"{layer.name}_dequantize_weight",
    )


def _node(op_type: str, inputs: list[ir.Value], output: str, name: str) -> ir.Node:
    return ir.node(op_type, inputs, outputs=[ir.val(output)], name=name)
