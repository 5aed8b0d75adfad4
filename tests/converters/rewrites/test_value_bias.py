from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, attention, attentions, kinds, rewritten
from hypothesis import given, settings

from vitedge.converters.rewrites import is_exact, value_bias
from vitedge.converters.rewrites.operand_bias import OperandBias

NOTHING = "no values have a bias"
VALUES = slice(2 * graphs.CHANNELS, None)


@settings(deadline=None, max_examples=30)
@given(graph=attentions)
def test_any_attention(graph: graphs.ir.Model) -> None:
    assert value_bias.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(value_bias, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert value_bias.check(graph, PREPROCESSING) == NOTHING


def test_a_layer_of_its_own_loses_its_bias() -> None:
    graph = attention(fused=False)
    additions = kinds(graph).count("Add")
    rewritten(value_bias, graph)
    assert kinds(graph).count("Add") == additions - 1


def test_only_a_part_of_a_fused_bias_goes() -> None:
    graph = attention()
    before = graph.graph.initializers["b"].const_value.numpy().copy()
    rewritten(value_bias, graph)
    after = graph.graph.initializers["product_bias"].const_value.numpy()
    before[VALUES] = 0
    assert (after == before).all()


@pytest.mark.parametrize(
    ("between", "softmax", "reason"),
    [
        ("other = Relu(v)", "a = Softmax<axis = -1>(scores)", "Relu reads the same channels"),
        ("", "c = Softmax<axis = -1>(scores)\na = Relu(c)", "Relu comes between the softmax and the values"),
        ("", "a = Softmax<axis = 2>(scores)", NOTHING),
    ],
)
def test_refusals(between: str, softmax: str, reason: str) -> None:
    graph = attention(between=between, softmax=softmax)
    assert value_bias.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(value_bias, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


def test_without_a_bias() -> None:
    assert value_bias.check(attention(bias=False), PREPROCESSING) == NOTHING


def attended(projection: str) -> graphs.ir.Model:
    """Values of a layer ``made``, averaged into ``o``, which the given lines read, on ``(1, 8, 8)``."""
    body = f"""
        product = MatMul(x, w)
        made = Add(product, b)
        a = Softmax<axis = -1>(x)
        o = MatMul(a, made)
        {projection}
    """
    constants = {"wp": graphs.random(8, 8), "wide": graphs.random(16, 8), "kernel": graphs.random(8, 8, 3)}
    constants |= {"pads": np.array([0, 0, 0, 0, 1, 0])}
    return graphs.model((1, 8, 8), body, w=graphs.random(8, 8), b=graphs.random(8), **constants)


@pytest.mark.parametrize(
    ("projection", "reason"),
    [
        ("y = Relu(o)", "Relu reads the attention, not a layer with constant weights"),
        ("y = Identity(o)", "the output reads the attention, not a layer with constant weights"),
        ("both = Concat<axis = 2>(o, x)\ny = MatMul(both, wide)", "MatMul reads more than the attention"),
        ("longer = Pad(o, pads)\ny = MatMul(longer, wp)", "MatMul reads more than the attention"),
        ("t = Transpose<perm = [0, 2, 1]>(o)\ny = Conv<pads = [1, 1]>(t, kernel)",
         "Conv reads more than the attention"),
        ("t = Transpose<perm = [0, 2, 1]>(o)\ny = MatMul(t, wp)", "MatMul reads more than the attention"),
    ],
)  # fmt: skip
def test_readers_that_cannot_take_it_in(projection: str, reason: str) -> None:
    graph = attended(projection)
    assert value_bias.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(value_bias, graph)
    assert (places.changed, dict(places.left)) == (0, {reason: 1})
    assert difference.max_abs_error == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [("made", "the shape of the operand is not known"), ("o", "the shape of the attention is not known")],
)
def test_unknown_shapes(value: str, reason: str) -> None:
    graph = attended("y = MatMul(o, wp)")
    assert value_bias.check(graph, PREPROCESSING) == ""
    graphs.forget_shape(graph, value)
    assert value_bias.check(graph, PREPROCESSING) == reason


def test_dropping_more_than_its_own_part_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OperandBias, "apply", lambda found, model: found.layer.set_bias(model, 0 * found.layer.bias))
    _, difference = rewritten(value_bias, attention())
    assert not is_exact(difference)
