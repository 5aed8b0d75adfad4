"""What an engine takes up: found by the operators, whatever lies between them."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from onnx import parser

from vitedge.calib.quantization.engine_fusion import Makers


def makers(body: str) -> Makers:
    header = '<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,4,4] x, float[4,4,3,3] w, int64[4] s) => (float y)'
    return Makers(parser.parse_model(f"{header} {{ {body} y = Identity(x) }}").graph.node)


@pytest.mark.parametrize(
    ("body", "taken_up"),
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
def test_a_multiplication_of_channels(body: str, taken_up: bool) -> None:
    assert makers(body).take_up_channels("t") == taken_up


@pytest.mark.parametrize(
    ("body", "expected"),
    [("t = Gelu(x)", True), ("g = Sigmoid(x) t = Mul(x, g)", True), ("t = Add(x, x)", False), ("", False)],
)
def test_activation_functions(body: str, expected: bool) -> None:
    assert makers(body).is_activation("t") == expected
