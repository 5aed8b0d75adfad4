"""Scales after LayerNormalization: gone where nothing else reads what they multiply, and the function unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from vitedge.calib.smoothing import fold_smoothing  # noqa: E402

WIDTH = 6


def smoothed(*, seed: int = 0, bias: bool = True, scale_shape: tuple[int, ...] = (1, 1, WIDTH), also: str = "") -> Any:
    """LayerNormalization, a scale, a product; ``also`` names a value that is a second output."""
    generator = np.random.default_rng(seed)
    constants = {
        "gamma": generator.uniform(0.5, 2, WIDTH),
        "beta": generator.standard_normal(WIDTH),
        "scale": generator.uniform(0.1, 4, scale_shape),
        "weight": generator.standard_normal((WIDTH, 3)),
    }
    affine = ["gamma", "beta"] if bias else ["gamma"]
    nodes = [
        helper.make_node("LayerNormalization", ["x", *affine], ["normed"]),
        helper.make_node("Mul", ["normed", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["y"]),
    ]
    outputs = ["y", also] if also else ["y"]
    graph = helper.make_graph(
        nodes,
        "smoothed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def answer(model: Any) -> Any:
    x = np.random.default_rng(1).standard_normal((1, 4, WIDTH)).astype(np.float32)
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


@given(seed=st.integers(0, 1000), bias=st.booleans())
def test_the_function_stays(seed: int, bias: bool) -> None:
    model = smoothed(seed=seed, bias=bias)
    before = answer(model)
    assert fold_smoothing(model) == 1
    assert [node.op_type for node in model.graph.node] == ["LayerNormalization", "MatMul"]
    np.testing.assert_allclose(answer(model), before, rtol=1e-4, atol=1e-5)


def test_a_second_reader_keeps_the_scale() -> None:
    model = smoothed()
    model.graph.node.append(helper.make_node("Identity", ["normed"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    assert fold_smoothing(model) == 0


def test_an_output_of_the_graph_keeps_the_scale() -> None:
    assert fold_smoothing(smoothed(also="normed")) == 0


def test_a_scale_for_each_token_stays() -> None:
    assert fold_smoothing(smoothed(scale_shape=(1, 4, 1))) == 0
    assert fold_smoothing(smoothed(scale_shape=(1, 4, WIDTH))) == 0


def test_shared_constants_stay() -> None:
    model = smoothed()
    model.graph.node.append(helper.make_node("Add", ["y", "gamma"], ["never"]))
    assert fold_smoothing(model) == 0
