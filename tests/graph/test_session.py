"""Sessions on graphs and parts of them: the same numbers, whatever lies beside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from vitedge.errors import ConversionError
from vitedge.graph import weights
from vitedge.graph.session import conversion_errors, open_part, open_session
from vitedge.graph.weights import split_weights

X = graphs.random(1, 5, 64)
WIDE = {"w": graphs.random(64, 64), "v": graphs.random(64, 64, seed=1), "unread": graphs.random(64, 64, seed=2)}


def network(body: str = "a = MatMul(x, w)\nb = Relu(a)\ny = MatMul(b, v)") -> onnx.ModelProto:
    return ir.to_proto(graphs.model((1, 5, 64), body, **WIDE))


def plain(graph: onnx.ModelProto) -> Any:
    """A session that has its weights within the graph."""
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def test_weights_beside_the_graph_give_the_same_numbers() -> None:
    graph = network()
    light, handed = split_weights(graph)
    assert set(handed) == {"w", "v"}
    assert len(light.SerializeToString()) < 2048 < len(graph.SerializeToString())
    (expected,), (found,) = (each.run(None, {"x": X}) for each in (plain(graph), open_session(graph)))
    np.testing.assert_array_equal(found, expected)


def test_constants_that_nothing_reads_are_left_out() -> None:
    graph = network()
    graph.graph.initializer.append(onnx.numpy_helper.from_array(WIDE["unread"], "unread"))
    assert set(split_weights(graph)[1]) == {"w", "v"}
    open_session(graph).run(None, {"x": X})


BRANCHES = (
    "many = ReduceSum<keepdims = 0>(x)\nyes = Cast<to = 9>(many)\n"
    "y = If (yes) <then_branch = one () => (float[1,5,64] t) { t = MatMul(x, w) }, "
    "else_branch = two () => (float[1,5,64] e) { e = MatMul(x, v) }>"
)


def test_weights_that_only_a_branch_reads_are_handed_over() -> None:
    graph = network(BRANCHES)
    assert set(split_weights(graph)[1]) == {"w", "v"}
    np.testing.assert_array_equal(open_session(graph).run(None, {"x": X})[0], plain(graph).run(None, {"x": X})[0])
    model = ir.from_proto(graph)
    part = open_part(model, list(model.graph), {"x": X}, ["y"])
    np.testing.assert_array_equal(part.run(None, {"x": X})[0], plain(graph).run(None, {"x": X})[0])


def test_a_part_of_a_graph_computes_what_it_does_within() -> None:
    graph = network()
    model = ir.from_proto(graph)
    product, relu, last = model.graph
    (a,) = open_part(model, [product], {"x": X}, ["a"]).run(None, {"x": X})
    (y,) = open_part(model, [relu, last], {"a": a}, ["y"], threads=1).run(None, {"a": a})
    np.testing.assert_allclose(y, plain(graph).run(None, {"x": X})[0], rtol=1e-5, atol=1e-4)


def test_inner_values_become_outputs() -> None:
    a, y = open_session(network(), also=["a"]).run(["a", "y"], {"x": X})
    np.testing.assert_allclose(np.maximum(a, 0) @ WIDE["v"], y, rtol=1e-4, atol=1e-3)


def test_a_file_may_have_its_weights_in_another(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx", save_as_external_data=True, location="weights")
    assert (tmp_path / "model.onnx").stat().st_size < 2048
    expected = plain(network()).run(None, {"x": X})[0]
    np.testing.assert_array_equal(open_session(tmp_path / "model.onnx").run(None, {"x": X})[0], expected)


def test_types_that_numpy_does_not_have_stay_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    monkeypatch.setattr(weights, "HANDED_TYPES", frozenset())
    assert not split_weights(graph)[1]
    np.testing.assert_array_equal(open_session(graph).run(None, {"x": X})[0], plain(graph).run(None, {"x": X})[0])


def test_refusals_are_conversion_errors_in_one_line() -> None:
    broken = network()
    broken.graph.node[0].op_type = "Nonsense"
    with (
        pytest.raises(ConversionError, match=r"cannot run the graph: .*Nonsense") as caught,
        conversion_errors(),
    ):
        open_session(broken)
    assert "\n" not in caught.value.problem
    model = ir.from_proto(broken)
    with pytest.raises(ConversionError, match="Nonsense"):
        open_part(model, list(model.graph), {"x": X}, ["y"])


@pytest.mark.parametrize("zero_point", [TensorProto.FLOAT8E4M3FN, TensorProto.UINT8, TensorProto.INT8])
def test_a_relu_before_a_quantizer_is_computed(zero_point: int) -> None:
    """ONNX Runtime's optimizer drops it before float8, which has no zero point that clips negative values."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "scale", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.25]),
        helper.make_tensor("zero", zero_point, [], [0]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])] for name in ("x", "y")]
    graph = helper.make_model(
        helper.make_graph(nodes, "g", *ends, constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    (found,) = open_session(graph).run(None, {"x": np.array([-2, -0.5, 0.5, 2], np.float32)})
    np.testing.assert_array_equal(found, [0, 0, 0.5, 2])
