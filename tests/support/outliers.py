"""Outliers planted into a trained graph, as large vision transformers have them, and the quantizer that they defeat."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from vitedge.calib.quantization.affine import Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.observers import observe
from vitedge.calib.quantization.placement import by_data, int8_layers, weighted_layers
from vitedge.calib.quantization.qdq import Int8Data, Int8Weight, with_qdq
from vitedge.calib.quantization.working_graph import WorkingGraph
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

    for data, readers in by_data(weighted_layers(copy)).items():
        norm = producers.get(data)
        if norm is None or uses[data] != len(readers):
            continue
        channels = len(known[norm.input[1]])
        factors = np.ones(channels)
        factors[np.argsort(-np.abs(known[norm.input[1]]))[: max(1, channels // SHARE)]] = largest
        for index, name in enumerate(norm.input):
            if index:
                replace(norm, index, known[name] * factors)
        for layer in readers:
            node = copy.graph.node[layer.position]
            shape = [1, 1]
            shape[1 - layer.out_axis] = channels
            replace(node, 1, known[layer.weight] / factors.reshape(shape))
        changed += 1
    return copy, changed


def min_max_quantized(graph: Any, frames: NDArray[np.uint8]) -> Any:
    """The same layers in int8, from the smallest to the largest value of each tensor, and nothing more."""
    working = WorkingGraph.of(graph)
    axes = {layer.data: 1 if layer.operator == "Conv" else -1 for layer in working.layers()}
    observed = observe(graph, axes, frames, 0, Silent())
    layers = int8_layers(working.assembled(working.nodes), {name: each.shape for name, each in observed.items()})
    data, weights = dict[int, Int8Data](), dict[Any, Int8Weight]()
    for name, readers in by_data(layers).items():
        extremes = observed[name].extremes
        low, high = float(extremes.low.min()), float(extremes.high.max())
        read = f"{name}_read"
        data[readers[0].position] = Int8Data(name, read, activation_quantizer(low, high, Scheme.ASYMMETRIC))
        for layer in readers:
            working.nodes[layer.position].input[0] = read
            scales = weight_scales(working.weight(layer))
            weights[layer] = Int8Weight(round_weights(working.weight(layer), scales), scales)
    return with_qdq(working, data, weights)
