"""Layers that stay in floating point because of what lies around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import SIDE, TOKENS, WIDTH, weights

from vitedge.calib.quantization.placement import int8_layers
from vitedge.calib.quantization.surroundings import is_depthwise, is_read_in_float, mixes_heads
from vitedge.graph.layers import Layer, linear_layers

HEADS, ROW = 3, 4
ATTENTION = (
    "q = MatMul(x, wq) qr = Reshape(q, to_heads) qh = Transpose<perm=[0,2,1,3]>(qr) "
    "k = MatMul(x, wk) kr = Reshape(k, to_heads) kh = Transpose<perm=[0,2,3,1]>(kr) "
    "s = MatMul(qh, kh) scaled = Mul(s, scale) scores = Add(scaled, table) "
)
VALUES = "vr = Reshape(x, to_heads) vh = Transpose<perm=[0,2,1,3]>(vr) o = MatMul({}, vh) y = Reshape(o, to_rows_again)"
TALKING = {
    "convolutions": (
        "before = Conv(scores, kernel) p = Softmax(before) behind = Conv(p, kernel)",
        VALUES.format("behind"),
    ),
    "layers": (
        "t = Transpose<perm=[0,2,3,1]>(scores) before = MatMul(t, heads) u = Transpose<perm=[0,3,1,2]>(before) "
        "p = Softmax(u) v = Transpose<perm=[0,2,3,1]>(p) behind = MatMul(v, heads) "
        "w = Transpose<perm=[0,3,1,2]>(behind)",
        VALUES.format("w"),
    ),
}
"""Talking heads of EfficientFormer V2 and of CaiT."""


def found(body: str, **constants: Any) -> dict[str, Layer]:
    """The layers of a graph by the name of what their operators produce."""
    proto = graphs.model(f"{body} logits = MatMul(y, wq)", wq=weights(WIDTH, WIDTH), **constants)
    return {str(layer.node.outputs[0].name): layer for layer in linear_layers(ir.from_proto(proto).graph)}


def attention(body: str, **constants: Any) -> list[str]:
    """The layers around attention that mix heads."""
    known = {
        "wk": weights(WIDTH, WIDTH),
        "to_heads": np.array([1, TOKENS, HEADS, ROW]),
        "to_rows_again": np.array([1, TOKENS, WIDTH]),
        "scale": np.full(1, 0.5),
        "table": np.zeros((HEADS, TOKENS, TOKENS)),
    }
    return [name for name, layer in found(ATTENTION + body, **known, **constants).items() if mixes_heads(layer)]


@pytest.mark.parametrize(("mixing", "values"), TALKING.values(), ids=TALKING)
def test_talking_heads(mixing: str, values: str) -> None:
    constants = {"kernel": weights(HEADS, HEADS, 1, 1), "heads": weights(HEADS, HEADS)}
    assert attention(f"{mixing} {values}", **constants) == ["before", "behind"]


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("before = Conv<pads=[1,1,1,1]>(scores, wide) p = Softmax(before)", {"wide": weights(HEADS, HEADS, 3, 3)}),
        ("before = Conv(scores, fewer) more = Concat<axis=1>(before, before, before) p = Softmax(more)",
         {"fewer": weights(1, HEADS, 1, 1)}),
        ("before = Conv(scores, kernel) gelu = Gelu(before) p = Softmax(gelu)",
         {"kernel": weights(HEADS, HEADS, 1, 1)}),
    ],
    ids=["a window", "fewer heads", "an activation function"],
)  # fmt: skip
def test_other_layers_behind_scores(body: str, constants: dict[str, Any]) -> None:
    assert attention(f"{body} {VALUES.format('p')}", **constants) == []


def test_projections_of_linear_attention_mix_no_heads() -> None:
    """They are square, and a softmax reads one of them, but there are no scores."""
    body = (
        "q = MatMul(x, wk) k = MatMul(x, wk) p = Softmax<axis=1>(k) t = Transpose<perm=[0,2,1]>(p) m = MatMul(t, x) "
        "o = MatMul(q, m) y = MatMul(o, wk)"
    )
    assert not any(mixes_heads(layer) for layer in found(body, wk=weights(WIDTH, WIDTH)).values())


def test_the_projection_behind_attention_mixes_no_heads() -> None:
    assert attention(f"p = Softmax(scores) {VALUES.format('p').replace('y =', 'r =')} y = MatMul(r, wk)") == []


DEPTHWISE = f"d = Conv<group={WIDTH}, pads=[1,1,1,1]>(pixels, deep) s = Sigmoid(d) a = Mul(d, s)"
READERS = {
    "a convolution": ("y = Conv(a, dense)", False),
    "two convolutions": ("y = Conv(a, dense) z = Conv(a, dense) b = Concat<axis=1>(y, z)", False),
    "a convolution of moved values": ("t = Transpose<perm=[0,1,3,2]>(a) y = Conv(t, dense)", False),
    "a convolution of joined values": ("t = Concat<axis=1>(a, pixels) y = Conv(t, double)", False),
    "a pool": ("t = MaxPool<kernel_shape=[1,1]>(a) y = Conv(t, dense)", False),
    "HardSwish": ("h = HardSwish(d) y = Conv(h, dense)", False),
    "HardSwish written out": (
        "t = Add(d, three) c = Clip(t, zero, six) g = Div(c, six) h = Mul(d, g) y = Conv(h, dense)",
        False,
    ),
    "a factor of channels": ("t = Mul(a, gamma) y = Conv(t, dense)", False),
    "squeeze-and-excitation": ("m = GlobalAveragePool(a) e = Conv(m, dense) g = Mul(a, e) y = Conv(g, dense)", True),
    "a residual addition": ("r = Add(a, pixels) y = Conv(r, dense)", True),
    "an addition of scaled values": ("t = Mul(a, gamma) r = Add(t, pixels) y = Conv(r, dense)", True),
    "a shortcut": ("y = Conv(a, dense) r = Add(a, y)", True),
    "a normalization": (
        "t = Transpose<perm=[0,2,3,1]>(a) n = LayerNormalization<axis=-1>(t, ones, ones) "
        "u = Transpose<perm=[0,3,1,2]>(n) y = Conv(u, dense)",
        True,
    ),
    "a product of attention": ("p = MatMul(a, pixels) y = Conv(p, dense)", True),
}  # fmt: skip
"""What reads the result of a depthwise convolution, and whether in floating point."""
CONSTANTS = {
    "dense": weights(WIDTH, WIDTH, 1, 1),
    "double": weights(WIDTH, 2 * WIDTH, 1, 1),
    "deep": weights(WIDTH, 1, 3, 3),
    "gamma": np.ones((1, WIDTH, 1, 1)),
    "ones": np.ones(WIDTH),
    "three": np.full((), 3.0),
    "zero": np.full((), 0.0),
    "six": np.full((), 6.0),
}


@pytest.mark.parametrize(("reader", "floating"), READERS.values(), ids=READERS)
def test_who_reads_in_float(reader: str, floating: bool) -> None:
    made = found_in_map(f"{DEPTHWISE} {reader}")["d"]
    assert (is_depthwise(made), is_read_in_float(made)) == (True, floating)


def found_in_map(body: str) -> dict[str, Layer]:
    proto = graphs.model(f"{body} last = Conv(y, dense) logits = Conv(last, dense)", **CONSTANTS)
    return {str(layer.node.outputs[0].name): layer for layer in linear_layers(ir.from_proto(proto).graph)}


@pytest.mark.parametrize(
    ("groups", "weight"), [(1, (WIDTH, WIDTH, 3, 3)), (3, (WIDTH, ROW, 3, 3)), (WIDTH, (2 * WIDTH, 1, 3, 3))]
)
def test_other_convolutions_are_not_depthwise(groups: int, weight: tuple[int, ...]) -> None:
    body = f"c = Conv<group={groups}, pads=[1,1,1,1]>(pixels, other) logits = GlobalAveragePool(c)"
    graph = ir.from_proto(graphs.model(body, other=weights(*weight))).graph
    assert not any(is_depthwise(layer) for layer in linear_layers(graph))


def names(body: str, *, float_depthwise: bool) -> list[str]:
    layers = found_in_map(body)
    shapes = {str(layer.data.name): (1, WIDTH, SIDE, SIDE) for layer in layers.values()}
    chosen = int8_layers(tuple(layers.values()), shapes, float_depthwise=float_depthwise)
    return [str(layer.node.outputs[0].name) for layer in chosen]


@pytest.mark.parametrize("reader", ["a convolution", "a residual addition"])
def test_a_depthwise_convolution_stays_float_where_that_is_asked_for(reader: str) -> None:
    body, floating = READERS[reader]
    found_names = names(f"{DEPTHWISE} {body}", float_depthwise=True)
    assert ("d" in found_names, "y" in found_names) == (not floating, True)
    assert "d" in names(f"{DEPTHWISE} {body}", float_depthwise=False)


def test_other_convolutions_become_int8_whatever_reads_them() -> None:
    assert "d" in names("d = Conv(pixels, dense) r = Add(d, pixels) y = Conv(r, dense)", float_depthwise=True)


def test_a_depthwise_convolution_becomes_int8_where_nothing_else_could() -> None:
    layers = [*found_in_map(f"{DEPTHWISE} y = Add(a, pixels)").values()]
    shapes = {str(layer.data.name): (1, WIDTH, SIDE, SIDE) for layer in layers}
    float_layers = tuple(layer.name for layer in layers if not is_depthwise(layer))
    assert [is_depthwise(each) for each in int8_layers(layers, shapes, float_layers, float_depthwise=True)] == [True]
