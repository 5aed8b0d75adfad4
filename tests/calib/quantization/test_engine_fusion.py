"""What an engine fuses: found by the operators, whatever lies between them."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

import onnx_ir as ir
from onnx import parser

from vitedge.calib.quantization.engine_fusion import fuses_channel_scaling, is_activation


def value(body: str, name: str = "t") -> ir.Value:
    """A value of a graph; one that no node produces where the graph has none of that name."""
    header = '<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,4,4] x, float[4,4,3,3] w, int64[4] s) => (float y)'
    graph = ir.from_proto(parser.parse_model(f"{header} {{ {body} y = Identity(x) }}")).graph
    return next((each for node in graph for each in node.outputs if each.name == name), ir.val(name))


@pytest.mark.parametrize(
    ("body", "fused"),
    [
        ("t = Conv(x, w)", True),
        ("t = Relu(x)", True),
        ("c = Conv(x, w) t = Gelu(c)", True),
        ("c = Conv(x, w) p = MatMul(x, x) r = Reshape(p, s) t = Add(c, r)", True),
        ("t = Reshape(x, s)", False),
        ("c = Conv(x, w) t = Transpose(c)", False),
        ("t = MatMul(x, x)", False),
        ("p = MatMul(x, x) t = Add(x, p)", False),
        ("p = MatMul(x, x) a = Add(p, x) g = Sigmoid(a) t = Mul(x, g)", False),
        ("", False),
    ],
)
def test_a_multiplication_of_channels(body: str, fused: bool) -> None:
    assert fuses_channel_scaling(value(body)) == fused


@pytest.mark.parametrize(
    ("body", "expected"),
    [("t = Gelu(x)", True), ("g = Sigmoid(x) t = Mul(x, g)", True), ("t = Add(x, x)", False), ("", False)],
)
def test_activation_functions(body: str, expected: bool) -> None:
    assert is_activation(value(body)) == expected


@pytest.mark.timeout(60)
def test_a_chain_that_joins_itself_again_and_again_takes_no_time() -> None:
    body = "a0 = Relu(x) " + " ".join(f"a{index + 1} = Mul(a{index}, a{index})" for index in range(60))
    assert fuses_channel_scaling(value(body, "a60"))
