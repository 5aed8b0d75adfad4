"""Convolutions whose results are split."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten

from vitedge.converters.rewrites import split_convolution
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
    assert split_convolution.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(split_convolution, graph)
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
    _, difference = rewritten(split_convolution, graph)
    assert is_exact(difference)
    assert kinds(graph).count("Conv") == 4


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (model("Conv<group = 2, pads = [1, 1, 1, 1]>(x, grouped)", "a, b, c = Split<axis = 1>(m, halves)",
               "u = Concat<axis = 1>(a, c, b) y = Relu(u)"), split_convolution.GROUPED),
        (model("Conv<pads = [1, 1, 1, 1]>(x, weight)", "a, b = Split<axis = 2, num_outputs = 2>(m)",
               "c = Concat<axis = 2>(b, a) y = Relu(c)"), split_convolution.OTHER_AXIS),
        (model("Conv<pads = [1, 1, 1, 1]>(x, weight)", rest=f"{REST} r = ReduceMax(m) y = Add(z, r)"),
         split_convolution.READ_TWICE),
        (graphs.model((1, 4, 6), "a, b = Split<axis = 1, num_outputs = 2>(x) y = Add(a, b)"),
         "no result of a convolution is split"),
    ],
)  # fmt: skip
def test_what_stays(graph: graphs.ir.Model, reason: str) -> None:
    assert split_convolution.check(graph, PREPROCESSING) == reason
