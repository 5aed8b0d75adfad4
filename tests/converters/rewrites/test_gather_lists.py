"""Gathers by tables of indices."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites.gather_lists import flatten_gathers

ROWS = np.asarray([[0, 2, 4, 6], [1, 3, 5, 7]])
PIXELS = Preprocessing((8, 8), (8, 8))


def gathering(indices: NDArray[np.int64], axis: int, shape: list[int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "indices"], ["y"], axis=axis)],
        "gathering",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(indices, "indices")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def flattened(graph: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.from_proto(graph)
    flatten_gathers(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize(("axis", "shape"), [(2, [1, 3, 2, 4, 8]), (3, [1, 3, 8, 2, 4]), (-1, [1, 3, 8, 2, 4])])
def test_a_table_becomes_a_list(axis: int, shape: list[int]) -> None:
    graph = gathering(ROWS, axis, shape)
    result = flattened(graph)
    assert [node.op_type for node in result.graph.node] == ["Gather", "Reshape"]
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    expected = graph_logits(graph, frames, PIXELS)
    (listed,) = (value for value in result.graph.value_info if value.name == "y_gathered")
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(result, strict_mode=True))
    assert len(listed.type.tensor_type.shape.dim) == len(shape) - 1
    np.testing.assert_array_equal(graph_logits(result, frames, PIXELS), expected)


def test_a_list_stays() -> None:
    result = flattened(gathering(np.asarray([3, 1]), 1, [1, 2, 8, 8]))
    assert [node.op_type for node in result.graph.node] == ["Gather"]


def test_openvino_compiles_it_behind_int8_channels() -> None:
    """What this is for: two per-channel scales before a Gather by a table."""
    model = gathering(ROWS, 2, [1, 3, 2, 4, 8])
    graph = model.graph
    scale = np.asarray([0.01, 0.02, 0.03], np.float32)
    weights = np.random.default_rng(0).integers(-127, 128, (3, 3, 1, 1), dtype=np.int8)
    graph.initializer.extend(
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(scale, "scale"),
            numpy_helper.from_array(np.zeros(3, np.int8), "zeros"),
            numpy_helper.from_array(np.float32(0.02), "step"),
            numpy_helper.from_array(np.uint8(128), "centre"),
        ]
    )
    before = [
        helper.make_node("QuantizeLinear", ["x", "step", "centre"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "step", "centre"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x_dq", "w"], ["conv"]),
    ]
    graph.node[0].input[0] = "conv"
    gather = graph.node.pop()
    graph.node.extend([*before, gather])
    compiled = openvino.Core().compile_model(openvino.Core().read_model(flattened(model).SerializeToString()), "CPU")
    assert compiled(np.zeros((1, 3, 8, 8), np.float32))[0].shape == (1, 3, 2, 4, 8)
