"""Layers whose results are split."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten
from onnx_ir.passes.common import IdentityEliminationPass

from vitedge.converters.rewrites import split_layers
from vitedge.converters.rewrites.apply import is_exact

SHAPE = (1, 4, 5, 3)
SUM = "u = Relu(b) v = Sigmoid(c) w = Mul(u, v) y = Mul(a, w)"
REST = SUM.replace("y =", "z =")


def model(convolution: str, split: str = "a, b, c = Split<axis = 1>(m, sizes)", rest: str = SUM) -> graphs.ir.Model:
    return graphs.model(
        SHAPE,
        f"m = {convolution} {split} {rest}",
        weight=random(13, 4, 3, 3),
        grouped=random(14, 2, 3, 3),
        bias=random(13),
        sizes=np.asarray([1, 6, 6]),
        halves=np.asarray([2, 6, 6]),
    )


@pytest.mark.parametrize("inputs", ["x, weight, bias", "x, weight"])
@pytest.mark.parametrize("axis", [1, -3])
def test_one_convolution_for_each_part(inputs: str, axis: int) -> None:
    split = f"a, b, c = Split<axis = {axis}>(m, sizes)"
    graph = model(f"Conv<pads = [1, 1, 1, 1], strides = [2, 1]>({inputs})", split)
    assert split_layers.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(split_layers, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph) == ["Conv", "Conv", "Conv", "Relu", "Sigmoid", "Mul", "Mul"]
    assert len({node.name for node in graph.graph if node.op_type == "Conv"}) == 3
    assert not {"weight", "bias", "sizes"} & set(graph.graph.initializers)


def test_a_convolution_that_two_places_share_keeps_its_weights() -> None:
    graph = model(
        "Conv<pads = [1, 1, 1, 1]>(x, weight, bias)",
        rest=f"{REST} n = Conv<pads = [1, 1, 1, 1]>(x, weight) p = ReduceMax(n) y = Add(z, p)",
    )
    _, difference = rewritten(split_layers, graph)
    assert is_exact(difference)
    assert kinds(graph).count("Conv") == 4


def product(reshape: str, axis: int, *, bias: bool = True, rest: str = "") -> graphs.ir.Model:
    """A product of 5 tokens with 12 channels, which a Reshape divides; its parts have 1, 2 and 1 of 4."""
    return graphs.model(
        (1, 5, 8),
        f"p = MatMul(x, weight) {'m = Add(p, bias)' if bias else 'm = Identity(p)'} r = Reshape(m, {reshape}) "
        f"a, b, c = Split<axis = {axis}>(r, sizes) u = Relu(a) v = Sigmoid(b) w = Tanh(c) "
        f"{rest or f'y = Concat<axis = {axis}>(u, v, w)'}",
        weight=random(8, 12),
        bias=random(12),
        sizes=np.asarray([1, 2, 1]),
        heads=np.asarray([1, 5, 3, 4]),
        channels_of_heads=np.asarray([1, 5, 4, 3]),
        tokens=np.asarray([1, 3, 4, 5]),
        mixed=np.asarray([1, 4, 15]),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("reshape", "axis"), [("heads", 3), ("heads", -1), ("channels_of_heads", 2)])
def test_one_product_for_each_part_of_heads(reshape: str, axis: int, bias: bool) -> None:
    graph = product(reshape, axis, bias=bias)
    IdentityEliminationPass()(graph)
    assert split_layers.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(split_layers, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph).count("MatMul") == kinds(graph).count("Reshape") == 3
    assert "Split" not in kinds(graph)
    assert not {"weight", "bias", "sizes", reshape} & set(graph.graph.initializers)
    assert len({node.name for node in graph.graph if node.op_type == "MatMul"}) == 3


def test_a_convolution_whose_heads_are_split() -> None:
    graph = graphs.model(
        SHAPE,
        "m = Conv<pads = [1, 1, 1, 1]>(x, weight, bias) r = Reshape(m, heads) a, b = Split<axis = 2>(r, sizes) "
        "u = Relu(a) y = Concat<axis = 2>(u, b)",
        weight=random(12, 4, 3, 3),
        bias=random(12),
        heads=np.asarray([1, 3, 4, 15]),
        sizes=np.asarray([1, 3]),
    )
    _, difference = rewritten(split_layers, graph)
    assert is_exact(difference)
    assert kinds(graph).count("Conv") == 2


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (model("Conv<group = 2, pads = [1, 1, 1, 1]>(x, grouped)", "a, b, c = Split<axis = 1>(m, halves)",
               "u = Concat<axis = 1>(a, c, b) y = Relu(u)"), split_layers.GROUPED),
        (model("Conv<pads = [1, 1, 1, 1]>(x, weight)", "a, b = Split<axis = 2, num_outputs = 2>(m)",
               "c = Concat<axis = 2>(b, a) y = Relu(c)"), split_layers.OTHER_AXIS),
        (model("Conv<pads = [1, 1, 1, 1]>(x, weight)", rest=f"{REST} r = ReduceMax(m) y = Add(z, r)"),
         split_layers.READ_TWICE),
        (product("mixed", 1), split_layers.OTHER_AXIS),
        (product("tokens", 2), split_layers.OTHER_AXIS),
        (product("heads", 3, rest="s = ReduceMax(m) t = Concat<axis = 3>(u, v, w) y = Add(s, t)"),
         split_layers.READ_TWICE),
        (product("heads", 3, rest="s = ReduceMax(r) t = Concat<axis = 3>(u, v, w) y = Add(s, t)"),
         split_layers.READ_TWICE),
        (graphs.model((1, 4, 6), "a, b = Split<axis = 1, num_outputs = 2>(x) y = Add(a, b)"),
         "no result of a layer is split"),
    ],
)  # fmt: skip
def test_what_stays(graph: graphs.ir.Model, reason: str) -> None:
    assert split_layers.check(graph, PREPROCESSING) == reason
