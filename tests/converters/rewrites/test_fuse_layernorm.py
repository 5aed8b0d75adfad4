from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import fuse_layernorm
from vitedge.converters.rewrites.apply import is_exact

NOTHING = "no LayerNormalization is spelled out"
SQUARES = ["q = Mul(d, d)", "two = Constant<value = float {2.0}>() q = Pow(d, two)"]
QUOTIENTS = [
    "s = Sqrt(w) n = Div(d, s)",
    "s = Sqrt(w) i = Reciprocal(s) n = Mul(d, i)",
    "s = Sqrt(w) one = Constant<value = float {1.0}>() i = Div(one, s) n = Mul(d, i)",
    "p = Constant<value = float {-0.5}>() i = Pow(w, p) n = Mul(d, i)",
]
AFFINES = ["y = Identity(n)", "y = Mul(g, n)", "m = Mul(n, g) y = Add(b, m)"]


def spelled_out(
    square: str = SQUARES[0], quotient: str = QUOTIENTS[0], affine: str = AFFINES[2], axis: int = -1
) -> graphs.ir.Model:
    body = f"""axes = Constant<value = int64[1] {{{axis}}}>() u = ReduceMean(x, axes) d = Sub(x, u) {square}
        v = ReduceMean(q, axes) e = Constant<value = float {{1e-5}}>() w = Add(v, e) {quotient} {affine}"""
    return graphs.model((1, 8, 8), body, g=graphs.random(8), b=graphs.random(8, seed=1))


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
@pytest.mark.parametrize("affine", AFFINES)
def test_every_spelling_becomes_one_operator(square: str, quotient: str, affine: str) -> None:
    graph = spelled_out(square, quotient, affine)
    assert fuse_layernorm.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(fuse_layernorm, graph)
    assert is_exact(difference)
    assert places.changed == 1
    assert [kind for kind in kinds(graph) if kind != "Identity"] == ["LayerNormalization"]
    assert fuse_layernorm.check(graph, PREPROCESSING) == NOTHING


def test_one_that_reads_another_leaves_nothing_of_it() -> None:
    """As the first block of Swin reads the norm of the patch embedding."""
    lines = ""
    for source, result in (("x", "first"), ("first", "y")):
        lines += f"""{result}_u = ReduceMean({source}, axes) {result}_d = Sub({source}, {result}_u)
            {result}_q = Mul({result}_d, {result}_d) {result}_v = ReduceMean({result}_q, axes)
            {result}_w = Add({result}_v, e) {result}_s = Sqrt({result}_w) {result} = Div({result}_d, {result}_s) """
    graph = graphs.model((1, 8, 8), lines, axes=np.array([-1]), e=np.full(1, 1e-5))
    places, difference = rewritten(fuse_layernorm, graph)
    assert is_exact(difference)
    assert places.changed == 2
    assert kinds(graph) == ["LayerNormalization", "LayerNormalization"]


def test_other_axes_are_left() -> None:
    graph = spelled_out(axis=1)
    assert fuse_layernorm.check(graph, PREPROCESSING) == fuse_layernorm.OTHER_AXES
    places, difference = rewritten(fuse_layernorm, graph)
    assert (places.changed, dict(places.left)) == (0, {fuse_layernorm.OTHER_AXES: 1})
    assert difference.max_abs_error == 0


@pytest.mark.parametrize(
    ("square", "quotient"),
    [
        ("q = Mul(x, x)", QUOTIENTS[0]),
        ("q = Mul(d, x)", QUOTIENTS[0]),
        ("three = Constant<value = float {3.0}>() q = Pow(d, three)", QUOTIENTS[0]),
        (SQUARES[0], "n = Div(d, w)"),
        (SQUARES[0], "s = Sqrt(v) n = Div(d, s)"),
        (SQUARES[0], "s = Sqrt(w) two = Constant<value = float {2.0}>() i = Div(two, s) n = Mul(d, i)"),
        (SQUARES[0], "p = Constant<value = float {0.5}>() i = Pow(w, p) n = Mul(d, i)"),
    ],
)
def test_what_is_no_normalization_is_left(square: str, quotient: str) -> None:
    assert fuse_layernorm.check(spelled_out(square, quotient), PREPROCESSING) == NOTHING


def test_without_its_guard_the_fusion_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = spelled_out(axis=1)
    monkeypatch.setattr(fuse_layernorm._LayerNorm, "is_over_last_axis", True)
    places, difference = rewritten(fuse_layernorm, graph)
    assert places.changed == 1
    assert not is_exact(difference)
