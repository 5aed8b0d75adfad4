"""Factors behind a ReLU: in the weights where the outputs stay the same, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from vitedge.converters.openvino.channel_factors import fold_channel_factors
from vitedge.converters.precision import half_weights
from vitedge.metrics import parity

CHANNELS = 6


def model(
    *,
    activation: str = "Relu",
    inputs: str = "active, factors",
    convolution: str = "Conv(x, weight, bias)",
    kernel: tuple[int, ...] = (CHANNELS, 4, 1, 1),
    factors: Any = None,
    rest: str = "",
    axis: int = 0,
) -> onnx.ModelProto:
    """Int8 weights, a convolution, an activation function and factors of its channels."""
    generator = np.random.default_rng(0)
    body = (
        f"weight = DequantizeLinear<axis = {axis}>(levels, scale, zero_point) wide = {convolution} "
        f"active = {activation}(wide) scaled = Mul({inputs}) {rest or 'y = Identity(scaled)'}"
    )
    header = '<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,5,5] x) => (float[1,6,5,5] y)'
    graph = onnx.parser.parse_model(f"{header} {{ {body} }}")
    constants = {
        "levels": generator.integers(-127, 128, kernel).astype(np.int8),
        "scale": generator.uniform(0.01, 0.02, kernel[axis]).astype(np.float32),
        "zero_point": np.zeros(kernel[axis], np.int8),
        "bias": generator.standard_normal(CHANNELS).astype(np.float32),
        "factors": generator.uniform(0.1, 10, (CHANNELS, 1, 1)).astype(np.float32) if factors is None else factors,
    }
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in constants.items())
    return graph


def run(graph: onnx.ModelProto) -> NDArray[np.float32]:
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.random.default_rng(1).standard_normal((1, 4, 5, 5)).astype(np.float32)})
    return np.reshape(result, (1, -1))


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize("shape", [(CHANNELS, 1, 1), (1, CHANNELS, 1, 1)])
def test_a_pointwise_convolution_takes_them_up(shape: tuple[int, ...]) -> None:
    factors = np.random.default_rng(2).uniform(0.1, 10, shape).astype(np.float32)
    graph = model(factors=factors)
    folded = fold_channel_factors(graph)
    assert operators(folded) == ["DequantizeLinear", "Conv", "Relu", "Identity"]
    found = parity(run(graph), run(folded))
    assert found.sqnr_db > 120
    assert operators(graph).count("Mul") == 1  # the graph that was given keeps them


def test_factors_that_a_bundle_stores_in_float16_are_taken_up() -> None:
    graph = half_weights(model())
    assert "Cast" in operators(graph)
    folded = fold_channel_factors(graph)
    assert sorted(operators(folded)) == ["Conv", "DequantizeLinear", "Identity", "Relu"]
    assert parity(run(graph), run(folded)).sqnr_db > 120


def test_a_depthwise_convolution_takes_them_up() -> None:
    graph = model(kernel=(4, 1, 3, 3), convolution="Conv<group = 4, pads = [1, 1, 1, 1]>(x, weight, four)",
                  factors=np.linspace(1, 2, 4, dtype=np.float32).reshape(-1, 1, 1),
                  rest="y = Concat<axis = 1>(scaled, two)")  # fmt: skip
    four = np.linspace(-1, 1, 4, dtype=np.float32)
    two = np.ones((1, 2, 5, 5), np.float32)
    graph.graph.initializer.extend(
        [onnx.numpy_helper.from_array(four, "four"), onnx.numpy_helper.from_array(two, "two")]
    )
    folded = fold_channel_factors(graph)
    assert "Mul" not in operators(folded)
    assert parity(run(graph), run(folded)).sqnr_db > 120


def test_values_that_mean_something_else_have_other_names() -> None:
    folded = fold_channel_factors(model())
    assert not {"wide", "active"} & {name for node in folded.graph.node for name in node.output}


def test_weights_that_two_convolutions_share_stay_for_the_other() -> None:
    rest = "other = Conv(x, weight, bias) y = Add(scaled, other)"
    graph = model(rest=rest)
    folded = fold_channel_factors(graph)
    assert operators(folded).count("DequantizeLinear") == 2
    assert parity(run(graph), run(folded)).sqnr_db > 120


@pytest.mark.parametrize(
    "graph",
    [
        model(activation="HardSwish"),
        model(activation="Sigmoid"),
        model(factors=np.linspace(-1, 1, CHANNELS, dtype=np.float32).reshape(-1, 1, 1)),
        model(factors=np.float32(0.5)),
        model(factors=np.linspace(1, 2, 5, dtype=np.float32)),
        model(inputs="active, active"),
        model(convolution="Conv(x, weight)"),
        model(kernel=(CHANNELS, 4, 3, 3), convolution="Conv<pads = [1, 1, 1, 1]>(x, weight, bias)"),
        model(axis=1),
        model(rest="y = Add(scaled, active)"),
        model(rest="y = Add(scaled, wide)"),
    ],
    ids=["HardSwish", "Sigmoid", "negative", "one for all", "along the width", "computed", "no bias", "3x3",
         "scales of input channels", "active is read", "the convolution is read"],
)  # fmt: skip
def test_what_stays(graph: onnx.ModelProto) -> None:
    assert fold_channel_factors(graph) is graph
