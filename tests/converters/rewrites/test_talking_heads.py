"""Layers between two Transposes of a map."""

from __future__ import annotations

import graphs
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten

from vitedge.converters.rewrites import talking_heads
from vitedge.converters.rewrites.apply import is_exact

SHAPE = (1, 4, 5, 3)
NOTHING = "no layer lies between two Transposes of a map"
BEFORE, BEHIND = "t = Transpose<perm = [0, 2, 3, 1]>(x)", "u = Transpose<perm = [0, 3, 1, 2]>(m)"


def model(body: str) -> graphs.ir.Model:
    return graphs.model(SHAPE, body, weight=random(4, 6), bias=random(6), table=random(5, 3, 6), ones=random(4))


@pytest.mark.parametrize("layer", ["m = MatMul(t, weight)", "p = MatMul(t, weight) m = Add(bias, p)"])
def test_the_layer_becomes_a_convolution(layer: str) -> None:
    graph = model(f"{BEFORE} {layer} {BEHIND} y = Sigmoid(u)")
    places, difference = rewritten(talking_heads, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph) == ["Conv", "Sigmoid"]
    assert not {"weight", "bias"} & set(graph.graph.initializers)
    assert talking_heads.check(graph, PREPROCESSING) == NOTHING


def test_two_layers_that_share_weights_become_two_convolutions() -> None:
    again = "v = Transpose<perm = [0, 2, 3, 1]>(x) n = MatMul(v, weight) w = Transpose<perm = [0, 3, 1, 2]>(n)"
    graph = model(f"{BEFORE} m = MatMul(t, weight) {BEHIND} {again} y = Mul(u, w)")
    places, difference = rewritten(talking_heads, graph)
    assert (places.changed, is_exact(difference)) == (2, True)
    assert kinds(graph) == ["Conv", "Conv", "Mul"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{BEFORE} m = MatMul(t, weight) {BEHIND} a = ReduceMax(t) y = Add(u, a)", talking_heads.READ_TWICE),
        (f"{BEFORE} m = MatMul(t, weight) {BEHIND} a = ReduceMax(m) y = Add(u, a)", talking_heads.READ_TWICE),
        (f"{BEFORE} p = MatMul(t, weight) m = Add(p, table) {BEHIND} y = Relu(u)", NOTHING),
        (f"{BEFORE} p = MatMul(t, weight) m = Relu(p) {BEHIND} y = Relu(u)", NOTHING),
        (f"{BEFORE} m = MatMul(t, weight) u = Transpose<perm = [0, 3, 2, 1]>(m) y = Relu(u)", NOTHING),
        ("t = Transpose<perm = [0, 3, 2, 1]>(x) m = MatMul(t, weight) " + BEHIND + " y = Relu(u)", NOTHING),
        (f"{BEFORE} m = LayerNormalization<axis = -1>(t, ones, ones) {BEHIND} y = Relu(u)", NOTHING),
    ],
    ids=["channels are read", "the result is read", "a table", "an activation", "another order behind", "before",
         "a normalization"],
)  # fmt: skip
def test_what_stays(body: str, reason: str) -> None:
    graph = model(body)
    assert talking_heads.check(graph, PREPROCESSING) == reason
    assert "Conv" not in kinds(graph)
