"""Tidying: what does not depend on the image is computed once."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites import tidy


def test_a_large_table_is_looked_up_once() -> None:
    """As the relative position bias of BEiT: a table, gathered for each pair of 600 tokens."""
    table = np.arange(100, dtype=np.float32)
    index = np.arange(600 * 600, dtype=np.int64).reshape(600, 600) % 100
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["bias"]), helper.make_node("Add", ["x", "bias"], ["y"])],
        "biased",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [600, 600])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [600, 600])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(index, "index")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    tidy.rewrite(model, Preprocessing((8, 8), (8, 8)))
    assert [node.op_type for node in model.graph] == ["Add"]
    (bias,) = ir.to_proto(model).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(bias), table[index])
    onnx.checker.check_model(ir.to_proto(model))


def test_shapes_and_constants_are_computed_once() -> None:
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1,3,2,2] pixels) => (float[1,12] logits) <float[1,1] half = {0.5}>
        {
            first = Constant<value = int64[1] {0}>()
            whole = Add(half, half)
            same = Identity(pixels)
            shape = Shape(same)
            batch = Gather<axis = 0>(shape, first)
            rest = Constant<value = int64[1] {-1}>()
            size = Concat<axis = 0>(batch, rest)
            flat = Reshape(same, size)
            logits = Mul(flat, whole)
        }
        """
    )
    model = ir.from_proto(graph)
    tidy.rewrite(model, Preprocessing((8, 8), (8, 8)))
    assert {node.op_type for node in model.graph} <= {"Reshape", "Mul"}


def test_a_reshape_that_keeps_the_shape_is_removed_unless_it_makes_an_output() -> None:
    body = (
        "turned = Transpose<perm = [1, 0]>(x) same = Reshape(turned, sizes) kept = Relu(same) y = Reshape(kept, sizes)"
    )
    model = graphs.model((3, 4), body, sizes=np.array([-1, 3], np.int64))
    tidy.rewrite(model, graphs.PREPROCESSING)
    assert [node.op_type for node in model.graph] == ["Transpose", "Relu", "Reshape"]
    assert [output.name for output in model.graph.outputs] == ["y"]


def test_reshapes_of_reshapes_become_one() -> None:
    body = "one = Reshape(x, flat) maps = Reshape(one, square)"
    graph = graphs.classifier(body, flat=np.array([432]), square=np.array([1, 27, 4, 4]))
    model = ir.from_proto(graph)
    assert len(model.graph) == 4
    tidy.rewrite(model, graphs.PHOTOS)
    assert len(model.graph) == 3
