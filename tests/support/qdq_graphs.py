"""What a quantized graph holds and computes: its constants, its layers, and what their inputs are dequantized by."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from vitedge.graph.operators import LAYOUT_OPERATORS

Frames = NDArray[np.uint8]


def changed(graph: Any) -> Any:
    """A copy, to change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def constants(graph: Any) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def producers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.graph.node for name in node.output}


def layers(graph: Any) -> list[Any]:
    """Convolutions and products with weights, in order."""
    known = constants(graph)
    return [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and set(n.input[:2]) & set(known)]


def run_onnxruntime(graph: Any, frames: Frames) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"frame": each[None]})[0] for each in frames])


def dequantized_inputs(graph: Any, name: str) -> list[Any]:
    """The DequantizeLinear nodes before the node ``name``, with nothing between but layout operators."""
    made_by = producers(graph)
    (node,) = [each for each in graph.graph.node if each.name == name]
    before = [made_by[each] for each in node.input if each in made_by]
    while any(each.op_type in LAYOUT_OPERATORS for each in before):
        before = [made_by[each.input[0]] if each.op_type in LAYOUT_OPERATORS else each for each in before]
    return [each for each in before if each.op_type == "DequantizeLinear"]
