"""Outliers planted into a trained graph, as large vision transformers have them, and the quantizer that they defeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.bias_correction import add_missing_biases
from vitedge.calib.quantization.grid import INT8
from vitedge.calib.quantization.layernorm_equalization import Equalization, fold_equalization, read_norm
from vitedge.calib.quantization.observers import FirstImages, observe
from vitedge.calib.quantization.placement import int8_layers, readers_by_data
from vitedge.calib.quantization.qdq import QuantizedData, QuantizedWeight, insert_qdq
from vitedge.graph.layers import Layer
from vitedge.graph.values import constant
from vitedge.progress import Silent

SHARE = 4
"""One channel in so many is an outlier: those that are the largest anyway."""


def planted(graph: Any, *, largest: float = 100.0) -> tuple[Any, int]:
    """The same function with some channels of LayerNormalizations ``largest`` times larger, and of how many of these.

    Their readers' weights are as much smaller, also behind windows and other operators that only copy values; those
    that anything else reads are left alone.
    """
    model = ir.from_proto(graph)
    layers, changed = add_missing_biases(model), 0
    for node in [each for each in model.graph if each.op_type == "LayerNormalization"]:
        norm = read_norm(model.graph, node, layers)
        if norm is None:
            continue
        factors = np.ones(norm.channels)
        scale = np.abs(constant(node.inputs[1]))
        factors[np.argsort(-scale)[: max(1, norm.channels // SHARE)]] = largest
        fold_equalization(model, norm, Equalization(np.zeros(norm.channels), 1 / factors))
        changed += 1
    return ir.to_proto(model), changed


def min_max_quantized(graph: Any, frames: NDArray[np.uint8]) -> Any:
    """The same layers in int8, from the smallest to the largest value of each tensor, and nothing more."""
    model = ir.from_proto(graph)
    layers = add_missing_biases(model)
    axes = {str(layer.data.name): layer.channel_axis for layer in layers}
    observed = observe(graph, axes, frames, FirstImages(), Silent()).tensors
    chosen = int8_layers(layers, {name: each.shape for name, each in observed.items()})
    data, weights = dict[Layer, QuantizedData](), dict[Layer, QuantizedWeight]()
    for value, readers in readers_by_data(chosen).items():
        found = observed[str(value.name)].min_max
        quantizer = activation_quantizer(float(found.low.min()), float(found.high.max()), Scheme.ASYMMETRIC)
        read = ir.val(f"{value.name}_read")
        data[readers[0]] = QuantizedData(value, read, quantizer)
        for layer in readers:
            layer.node.replace_input_with(0, read)
    for layer in chosen:
        scales = weight_scales(layer.weight_matrix, INT8)
        weights[layer] = QuantizedWeight(round_weights(layer.weight_matrix, scales, INT8), scales)
    insert_qdq(model, data, weights)
    result = ir.to_proto(model)
    del result.graph.value_info[:]
    return result
