"""Activations before what only moves values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vitedge.converters.export import export
from vitedge.converters.rewrites import activations_first
from vitedge.preprocessing import Preprocessing

PIXELS = Preprocessing((64, 64), (64, 64))


def graph_of(*, source: str = "Conv", also_read: str = "", activation: str = "Gelu") -> onnx.ModelProto:
    """A map of 6 channels laid out as tokens, then an activation; ``also_read`` becomes a second output."""
    weights = np.random.default_rng(0).normal(size=(6, 3, 1, 1)).astype(np.float32)
    first = (
        helper.make_node("Conv", ["x", "w"], ["map"]) if source == "Conv" else helper.make_node(source, ["x"], ["map"])
    )
    channels = 6 if source == "Conv" else 3
    shapes = {"map": (1, channels, 4, 4), "flat": (1, channels, 16), "y": (1, 16, channels)}
    graph = helper.make_graph(
        [
            first,
            helper.make_node("Reshape", ["map", "flat_shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node(activation, ["tokens"], ["y"]),
        ],
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 4, 4))],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, shapes[each]) for each in ("y", also_read) if each],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.asarray(shapes["flat"], np.int64), "flat_shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run(graph: onnx.ModelProto) -> NDArray[np.float32]:
    onnx.checker.check_model(graph, full_check=True)
    values = np.random.default_rng(1).normal(size=(1, 3, 4, 4)).astype(np.float32)
    return np.asarray(ReferenceEvaluator(graph).run(None, {"x": values})[0])


@pytest.mark.parametrize("activation", ["Gelu", "Relu", "HardSwish"])
def test_it_comes_right_behind_the_layer_and_nothing_changes(activation: str) -> None:
    graph = graph_of(activation=activation)
    model = ir.from_proto(graph)
    assert activations_first.check(model, PIXELS) == ""
    assert activations_first.rewrite(model, PIXELS).changed == 1
    result = ir.to_proto(model)
    assert [node.op_type for node in result.graph.node] == ["Conv", activation, "Reshape", "Transpose"]
    np.testing.assert_array_equal(run(result), run(graph))
    assert activations_first.check(ir.from_proto(result), PIXELS) != ""


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (graph_of(source="Relu"), "no layer makes what is moved"),
        (graph_of(also_read="map"), "something else reads the layer"),
        (graph_of(also_read="flat"), "something else reads what is moved"),
        (graph_of(activation="Softmax"), "no activation reads what was reshaped or transposed"),
    ],
)
def test_what_stays(graph: onnx.ModelProto, reason: str) -> None:
    model = ir.from_proto(graph)
    assert activations_first.check(model, PIXELS) == reason
    assert activations_first.rewrite(model, PIXELS).changed == 0


def test_places_of_a_network() -> None:
    module = timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1)).eval()
    assert activations_first.rewrite(ir.from_proto(export(module, (64, 64))), PIXELS).changed == 4
