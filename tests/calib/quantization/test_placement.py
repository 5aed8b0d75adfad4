"""Which layers are found, and which of them become int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import TOKENS, WIDTH, weights

from vitedge.calib.quantization.placement import int8_layers, readers_by_data
from vitedge.errors import ConversionError
from vitedge.graph.layers import Layer, linear_layers

ROWS = (1, TOKENS, WIDTH)


def layers_of(graph: Any) -> tuple[Layer, ...]:
    return tuple(linear_layers(ir.from_proto(graph).graph))


def made(layer: Layer) -> str:
    """The name of what the operator produces, without the bias of an Add."""
    return str(layer.node.outputs[0].name)


def chosen(graph: Any, **shapes: tuple[int, ...]) -> list[str]:
    layers = layers_of(graph)
    known = {str(layer.data.name): ROWS for layer in layers} | shapes
    return [made(layer) for layer in int8_layers(layers, known)]


def test_linear_layers_are_in_and_all_else_is_out() -> None:
    assert chosen(graphs.block()) == ["wide0", "narrow0", "wide1", "narrow1", "hidden"]


def test_products_of_attention_are_out() -> None:
    body = (
        "q = MatMul(x, wq) k = MatMul(x, wk) t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) "
        "o = MatMul(p, x) z = MatMul(o, wo) logits = MatMul(z, wl)"
    )
    graph = graphs.model(body, **{name: weights(WIDTH, WIDTH) for name in ("wq", "wk", "wo", "wl")})
    assert chosen(graph) == ["q", "k", "z"]
    shapes = {"moved": (1, 3, 4, 4), "x": ROWS, "o": ROWS, "z": ROWS}
    readers = readers_by_data(int8_layers(layers_of(graph), shapes))
    found = {value.name: [made(each) for each in layers] for value, layers in readers.items()}
    assert found == {"x": ["q", "k"], "o": ["z"]}


def test_products_of_a_single_row_are_out() -> None:
    assert chosen(graphs.block(), gelu1=(1, 1, 2 * WIDTH)) == ["wide0", "narrow0", "wide1", "hidden"]
    assert "narrow1" in chosen(graphs.block(), gelu1=(1, 2, 2 * WIDTH))


def test_the_layer_before_the_last_is_in_where_it_has_products_to_save() -> None:
    """A few hundred times as many of them in the layer before leave it less than 1 %."""
    assert chosen(graphs.block(depth=1))[-1] == "hidden"
    assert chosen(graphs.block(depth=1), gelu0=(1, 100 * TOKENS, 2 * WIDTH)) == ["wide0", "narrow0"]


def test_biases_are_found_where_they_are_constant_and_of_the_channels() -> None:
    body = (
        "a = MatMul(x, w) biased = Add(bias, a) b = MatMul(biased, w) position = Add(b, table) "
        "c = MatMul(position, w) residual = Add(c, x) d = MatMul(residual, w) logits = Add(d, bias)"
    )
    constants = {"w": weights(WIDTH, WIDTH), "bias": weights(WIDTH), "table": weights(TOKENS, WIDTH)}
    _, *found = layers_of(graphs.model(body, **constants))
    assert [(made(layer), layer.has_bias) for layer in found] == [("a", True), ("b", False), ("c", False), ("d", True)]
    for layer in found:
        np.testing.assert_allclose(layer.bias, constants["bias"] if layer.has_bias else np.zeros(WIDTH), rtol=1e-6)
    assert [layer.output.name for layer in found] == ["biased", "b", "c", "logits"]


def test_a_gemm_is_a_layer_unless_it_scales_or_transposes() -> None:
    body = (
        "flat = Reshape(x, to_matrix) a = Gemm<transB=1>(flat, w, bias) b = Gemm<alpha=0.5>(a, w) "
        "c = Gemm<transA=1>(b, v) logits = Gemm(c, w, bias)"
    )
    constants = {"w": weights(WIDTH, WIDTH), "v": weights(TOKENS, WIDTH), "bias": weights(WIDTH)}
    graph = graphs.model(body, to_matrix=np.array([TOKENS, WIDTH]), **constants)
    _, *found = layers_of(graph)
    assert [(made(layer), layer.out_axis, layer.has_bias) for layer in found] == [("a", 0, True), ("logits", 1, True)]


def test_nothing_to_quantize() -> None:
    with pytest.raises(ConversionError, match="no layer to quantize"):
        chosen(graphs.block(depth=0), x=(1, 1, WIDTH))
