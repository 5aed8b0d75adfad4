"""Quantizers before what only moves values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.calib.quantization.hoist_qdq import hoist_qdq

SHAPE = (1, 16, 6)
"""16 tokens, that are laid out as a map of 6 channels for a convolution."""


def quantized(
    *, scale: NDArray[np.float32], also_read: str = "", positions: Sequence[int] | None = None
) -> onnx.ModelProto:
    """Relu, Transpose, Reshape, Q/DQ, Conv; ``also_read`` becomes a second output.

    With ``positions`` of tokens, a Gather precedes the Transpose.
    """
    constants = {
        "scale": scale,
        "zero_point": np.full(scale.shape, 7, np.uint8),
        "map": np.asarray([1, 6, 4, 4], np.int64),
        "weights": np.random.default_rng(0).normal(size=(2, 6, 3, 3)).astype(np.float32),
    }
    shapes = {"tokens": SHAPE, "channels": (1, 6, 16), "planes": (1, 6, 4, 4), "levels": (1, 6, 4, 4)}
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["tokens"]),
            helper.make_node("Transpose", ["tokens"], ["channels"], perm=[0, 2, 1]),
            helper.make_node("Reshape", ["channels", "map"], ["planes"]),
            helper.make_node("QuantizeLinear", ["planes", "scale", "zero_point"], ["levels"], axis=1),
            helper.make_node("DequantizeLinear", ["levels", "scale", "zero_point"], ["read"], axis=1),
            helper.make_node("Conv", ["read", "weights"], ["y"], pads=[1, 1, 1, 1]),
        ],
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 4, 4))],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    if positions is not None:
        graph.initializer.append(numpy_helper.from_array(np.asarray(positions, np.int64), "positions"))
        graph.node.insert(1, helper.make_node("Gather", ["tokens", "positions"], ["gathered"], axis=1))
        graph.node[2].input[0] = "gathered"
        graph.value_info.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, SHAPE))
    if also_read:
        kind = TensorProto.UINT8 if also_read == "levels" else TensorProto.FLOAT
        graph.output.append(helper.make_tensor_value_info(also_read, kind, shapes[also_read]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(graph: onnx.ModelProto) -> list[NDArray[np.float32]]:
    onnx.checker.check_model(graph, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it moves quantizers itself
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(
        None, {"x": np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)}
    )
    return outputs


def hoisted(graph: onnx.ModelProto) -> int:
    """Hoist in place; how many pairs moved."""
    model = ir.from_proto(graph)
    count = hoist_qdq(model.graph)
    graph.CopyFrom(ir.to_proto(model))
    del graph.graph.value_info[:]
    return count


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


ONE_SCALE = np.asarray(0.02, np.float32)
MOVED = ["Relu", "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Conv"]


def test_the_pair_lies_behind_what_computes_and_nothing_changes() -> None:
    graph = quantized(scale=ONE_SCALE)
    before = run(graph)
    assert hoisted(graph) == 1
    assert operators(graph) == MOVED
    np.testing.assert_array_equal(run(graph)[0], before[0])
    assert hoisted(graph) == 0


def test_a_source_with_other_readers_stays_readable() -> None:
    graph = quantized(scale=ONE_SCALE, also_read="tokens")
    before = run(graph)
    assert hoisted(graph) == 1
    for found, expected in zip(run(graph), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_moves_that_others_read_stay_before_the_pair() -> None:
    graph = quantized(scale=ONE_SCALE, also_read="channels")
    before = run(graph)
    assert hoisted(graph) == 1
    assert operators(graph) == ["Relu", "Transpose", "QuantizeLinear", "DequantizeLinear", "Reshape", "Conv"]
    for found, expected in zip(run(graph), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_pair_lies_before_a_gather_that_changes_the_order_of_values() -> None:
    graph = quantized(scale=ONE_SCALE, positions=[*range(3, 16), 0, 1, -14])
    before = run(graph)
    assert hoisted(graph) == 1
    assert operators(graph) == [*MOVED[:3], "Gather", *MOVED[3:]]
    np.testing.assert_array_equal(run(graph)[0], before[0])


def test_a_gather_that_repeats_values_stays_before_the_pair() -> None:
    graph = quantized(scale=ONE_SCALE, positions=[*range(15), 0])
    assert hoisted(graph) == 1
    assert operators(graph) == ["Relu", "Gather", *MOVED[1:]]


def test_scales_of_single_channels_and_levels_that_are_read_stay() -> None:
    assert hoisted(quantized(scale=np.full(6, 0.02, np.float32))) == 0
    assert hoisted(quantized(scale=ONE_SCALE, also_read="levels")) == 0


@pytest.mark.parametrize(
    ("width", "order", "before", "split", "moved"),
    [
        (32, [0, 2, 1, 3], "Softmax<axis = -1>(s)", "1,2,5,-1", 0),
        (63, [0, 2, 1, 3], "Softmax<axis = -1>(s)", "1,2,5,-1", 0),
        (64, [0, 2, 1, 3], "Softmax<axis = -1>(s)", "1,2,5,-1", 1),
        (32, [2, 1, 0, 3], "Softmax<axis = -1>(s)", "2,5,1,32", 0),
        (32, [0, 1, 3, 2], "Softmax<axis = -1>(s)", "1,2,5,-1", 1),
        (32, [0, 2, 1, 3], "Relu(s)", "1,2,5,-1", 1),
        (32, [0, 2, 1, 3], "Conv(z, heads)", "1,2,5,-1", 0),
        (32, [0, 2, 1, 3], "Conv(s, heads)", "1,2,5,-1", 1),
    ],
)
def test_short_rows_of_heads_are_swapped_in_floating_point(
    width: int, order: list[int], before: str, split: str, moved: int
) -> None:
    body = (
        f"parts = Constant<value = int64[4] {{{split}}}>() rows = Constant<value = int64[2] {{10, -1}}>() "
        f"z = Softmax<axis = -1>(s) a = {before} "
        f"p = MatMul(a, x) w = Reshape(p, parts) t = Transpose<perm = {order}>(w) r = Reshape(t, rows) "
        "q = QuantizeLinear(r, scale, zero_point) y = DequantizeLinear(q, scale, zero_point)"
    )
    header = f'<ir_version: 10, opset_import: ["" : 20]> g (float[1,2,5,5] s, float[1,2,5,{width}] x) => (float[N,M] y)'
    proto = onnx.parser.parse_model(f"{header} {{ {body} }}")
    heads = np.ones((2, 2, 1, 1), np.float32)
    for name, value in (("scale", np.float32(0.02)), ("zero_point", np.uint8(128)), ("heads", heads)):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    assert hoist_qdq(graph.graph) == moved
    kinds = [node.op_type for node in graph.graph]
    assert (kinds.index("Transpose") > kinds.index("QuantizeLinear")) == bool(moved)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("first", ["Concat", "Mul"])
def test_behind_joined_parts_the_pair_stays_behind_the_reshape(first: str, turned: bool) -> None:
    joined = "Concat<axis=-1>(x, y)" if first == "Concat" else "Mul(x, y)"
    graph = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,4,6] x, float[1,4,4,6] y) => (float[1,8,N] z)
        <int64[3] rows = {{1, 8, -1}}, float scale = {{0.1}}, uint8 zero = {{7}}>
        {{ joined = {joined} {"turned = Transpose<perm = [0, 2, 1, 3]>(joined)" if turned else ""}
           moved = Reshape({"turned" if turned else "joined"}, rows) levels = QuantizeLinear(moved, scale, zero)
           read = DequantizeLinear(levels, scale, zero) z = Relu(read) }}"""
    )
    model = ir.from_proto(graph)
    assert hoist_qdq(model.graph) == (first != "Concat")
    (dequantize,) = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    behind = "Relu" if first == "Concat" else "Transpose" if turned else "Reshape"
    assert [node.op_type for node, _ in dequantize.outputs[0].uses()] == [behind]
