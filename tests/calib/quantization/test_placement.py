"""Which layers are found, and which of them become int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import TOKENS, WIDTH, weights

from vitedge.calib.quantization.placement import by_data, int8_layers, weighted_layers
from vitedge.errors import ConversionError

ROWS = (1, TOKENS, WIDTH)


def chosen(graph: Any, **shapes: tuple[int, ...]) -> list[str]:
    known = {layer.data: ROWS for layer in weighted_layers(graph)} | shapes
    return [layer.output for layer in int8_layers(graph, known)]


def test_linear_layers_are_in_and_all_else_is_out() -> None:
    assert chosen(graphs.block()) == ["wide0", "narrow0", "wide1", "narrow1"]


def test_products_of_attention_are_out() -> None:
    body = (
        "q = MatMul(x, wq) k = MatMul(x, wk) t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) "
        "o = MatMul(p, x) z = MatMul(o, wo) logits = MatMul(z, wl)"
    )
    graph = graphs.model(body, **{name: weights(WIDTH, WIDTH) for name in ("wq", "wk", "wo", "wl")})
    assert chosen(graph) == ["q", "k"]
    readers = by_data(int8_layers(graph, {"x": ROWS, "o": ROWS, "z": ROWS}))
    assert {name: [each.output for each in found] for name, found in readers.items()} == {"x": ["q", "k"]}


def test_products_of_a_single_row_are_out() -> None:
    assert chosen(graphs.block(), gelu1=(1, 1, 2 * WIDTH)) == ["wide0", "narrow0", "wide1"]
    assert chosen(graphs.block(), gelu1=(1, 2, 2 * WIDTH))[-1] == "narrow1"


def test_biases_are_found_where_they_are_constant_and_of_the_channels() -> None:
    body = (
        "a = MatMul(x, w) biased = Add(bias, a) b = MatMul(biased, w) position = Add(b, table) "
        "c = MatMul(position, w) residual = Add(c, x) d = MatMul(residual, w) logits = Add(d, bias)"
    )
    constants = {"w": weights(WIDTH, WIDTH), "bias": weights(WIDTH), "table": weights(TOKENS, WIDTH)}
    _, *found = weighted_layers(graphs.model(body, **constants))
    assert [(layer.output, layer.bias) for layer in found] == [("a", "bias"), ("b", ""), ("c", ""), ("d", "bias")]
    assert [layer.add - layer.position for layer in found if layer.add >= 0] == [1, 1]


def test_a_gemm_is_a_layer_unless_it_scales_or_transposes() -> None:
    body = (
        "flat = Reshape(x, to_matrix) a = Gemm<transB=1>(flat, w, bias) b = Gemm<alpha=0.5>(a, w) "
        "c = Gemm<transA=1>(b, v) logits = Gemm(c, w, bias)"
    )
    constants = {"w": weights(WIDTH, WIDTH), "v": weights(TOKENS, WIDTH), "bias": weights(WIDTH)}
    graph = graphs.model(body, to_matrix=np.array([TOKENS, WIDTH]), **constants)
    _, *found = weighted_layers(graph)
    assert [(layer.output, layer.out_axis, layer.bias) for layer in found] == [("a", 0, "bias"), ("logits", 1, "bias")]


def test_nothing_to_quantize() -> None:
    with pytest.raises(ConversionError, match="no layer to quantize"):
        chosen(graphs.block(depth=0))
