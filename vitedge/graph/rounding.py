"""Round the values of a graph to 16 bits, as an engine that computes in 16 bits does."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from vitedge.graph.weights import split_weights

FLOATS: Mapping[str, int] = {"bf16": onnx.TensorProto.BFLOAT16, "f16": onnx.TensorProto.FLOAT16}
"""The 16-bit types in which an engine computes, by OpenVINO's names."""
UNROUNDED = ("DequantizeLinear", "QuantizeLinear")
"""Operators whose outputs an engine does not round to 16 bits by themselves: it computes the integers exactly."""


def described(graph: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...] | None]]:
    """Infer type and shape of the values of a graph, by name; no shape where it is not static."""
    inferred = onnx.shape_inference.infer_shapes(split_weights(graph)[0], data_prop=True).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    return {each.name: (each.type.tensor_type.elem_type, _static(each.type.tensor_type)) for each in known}


def _static(tensor: onnx.TypeProto.Tensor) -> tuple[int, ...] | None:
    if not tensor.HasField("shape") or not all(each.HasField("dim_value") for each in tensor.shape.dim):
        return None
    return tuple(each.dim_value for each in tensor.shape.dim)


def rounded(graph: onnx.ModelProto, float_type: str) -> onnx.ModelProto:
    """Round every float32 value of a graph to 16 bits, as an engine does at most: fused operators round less.

    Args:
        graph: float32. It is not changed.
        float_type: ``bf16`` or ``f16``.
    """
    kinds, half = described(graph), FLOATS[float_type]
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.graph.node[:]
    renamed: dict[str, str] = {}
    for each in [each for each in copy.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]:
        renamed[each.name] = _round(copy.graph, each.name, half)
    outputs = {each.name for each in graph.graph.output}
    for node in graph.graph.node:
        added = copy.graph.node.add()
        added.CopyFrom(node)
        for index, name in enumerate(node.input):
            added.input[index] = renamed.get(name, name)
        for name in node.output:
            float_output = kinds.get(name, (0, None))[0] == onnx.TensorProto.FLOAT
            if float_output and node.op_type not in UNROUNDED and name not in outputs:
                renamed[name] = _round(copy.graph, name, half)
    return copy


def _round(graph: onnx.GraphProto, name: str, half: int) -> str:
    """Add a pair of casts; return the name of the rounded value."""
    graph.node.append(onnx.helper.make_node("Cast", [name], [f"{name}_half"], to=half))
    graph.node.append(onnx.helper.make_node("Cast", [f"{name}_half"], [f"{name}_rounded"], to=onnx.TensorProto.FLOAT))
    return f"{name}_rounded"
