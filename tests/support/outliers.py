"""Outliers planted into a trained graph, as large vision transformers have them, and the quantizer that they defeat."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from vitedge.calib.quantization.affine import Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.bias_correction import add_missing_biases
from vitedge.calib.quantization.observers import observe
from vitedge.calib.quantization.placement import int8_layers, readers_by_data
from vitedge.calib.quantization.qdq import Int8Data, Int8Weight, insert_qdq
from vitedge.graph.layers import Layer, linear_layers
from vitedge.progress import Silent

SHARE = 4
"""One channel in so many is an outlier: those that are the largest anyway."""


def planted(graph: Any, *, largest: float = 100.0) -> tuple[Any, int]:
    """The same function with some channels of LayerNormalizations ``largest`` times larger, and of how many of these.

    Their readers' weights are as much smaller; those that anything else reads are left alone.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    producers = {node.output[0]: node for node in copy.graph.node if node.op_type == "LayerNormalization"}
    uses = Counter(name for node in copy.graph.node for name in node.input)
    changed = 0

    def replace(node: Any, index: int, values: NDArray[Any]) -> None:
        name = f"{node.input[index]}_planted_{changed}_{node.name}"
        copy.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        node.input[index] = name

    nodes = {node.output[0]: node for node in copy.graph.node}
    for value, readers in readers_by_data(linear_layers(ir.from_proto(copy).graph)).items():
        norm = producers.get(str(value.name))
        if norm is None or uses[value.name] != len(readers):
            continue
        channels = len(known[norm.input[1]])
        factors = np.ones(channels)
        factors[np.argsort(-np.abs(known[norm.input[1]]))[: max(1, channels // SHARE)]] = largest
        for index, name in enumerate(norm.input):
            if index:
                replace(norm, index, known[name] * factors)
        for layer in readers:
            shape = [1, 1]
            shape[1 - layer.out_axis] = channels
            node = nodes[str(layer.node.outputs[0].name)]
            replace(node, 1, known[node.input[1]] / factors.reshape(shape))
        changed += 1
    return copy, changed


def min_max_quantized(graph: Any, frames: NDArray[np.uint8]) -> Any:
    """The same layers in int8, from the smallest to the largest value of each tensor, and nothing more."""
    model = ir.from_proto(graph)
    layers = add_missing_biases(model)
    observed = observe(graph, {str(layer.data.name): layer.channel_axis for layer in layers}, frames, 0, Silent())
    chosen = int8_layers(layers, {name: each.shape for name, each in observed.items()})
    data, weights = dict[Layer, Int8Data](), dict[Layer, Int8Weight]()
    for value, readers in readers_by_data(chosen).items():
        found = observed[str(value.name)].min_max
        quantizer = activation_quantizer(float(found.low.min()), float(found.high.max()), Scheme.ASYMMETRIC)
        read = ir.val(f"{value.name}_read")
        data[readers[0]] = Int8Data(value, read, quantizer)
        for layer in readers:
            layer.node.replace_input_with(0, read)
    for layer in chosen:
        scales = weight_scales(layer.weight_matrix)
        weights[layer] = Int8Weight(round_weights(layer.weight_matrix, scales), scales)
    insert_qdq(model, data, weights)
    result = ir.to_proto(model)
    del result.graph.value_info[:]
    return result
