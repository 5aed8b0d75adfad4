"""The rules for the biases of keys and values, which look at the same attention."""

from __future__ import annotations

from types import ModuleType

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, attention, kinds, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.converters.rewrites import is_exact, key_bias, value_bias
from vitedge.converters.rewrites.operand_bias import OperandBias

RULES = pytest.mark.parametrize("rule", [key_bias, value_bias])
NOTHING = {key_bias: "no keys have a bias", value_bias: "no values have a bias"}
KEYS, VALUES = slice(graphs.CHANNELS, 2 * graphs.CHANNELS), slice(2 * graphs.CHANNELS, None)


@settings(deadline=None, max_examples=30)
@given(
    rule=st.sampled_from([key_bias, value_bias]),
    scale=st.sampled_from(["none", "queries", "scores", "divided"]),
    fused=st.booleans(),
    mask=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_attention(rule: ModuleType, scale: str, fused: bool, mask: bool, seed: int) -> None:
    graph = attention(scale=scale, fused=fused, mask=mask, seed=seed)
    additions = kinds(graph).count("Add")
    assert rule.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(rule, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph).count("Add") == additions - (not fused)
    assert rule.check(graph, PREPROCESSING) == NOTHING[rule]


@pytest.mark.parametrize(("rule", "part"), [(key_bias, KEYS), (value_bias, VALUES)])
def test_only_a_part_of_a_fused_bias_goes(rule: ModuleType, part: slice) -> None:
    graph = attention()
    before = graph.graph.initializers["b"].const_value.numpy().copy()
    rewritten(rule, graph)
    after = graph.graph.initializers["product_bias"].const_value.numpy()
    before[part] = 0
    assert (after == before).all()


@pytest.mark.parametrize(
    ("rule", "between", "softmax", "reason"),
    [
        (key_bias, "other = Relu(k)", "a = Softmax<axis = -1>(scores)", "Relu reads the same channels"),
        (key_bias, "", "a = Softmax<axis = 2>(scores)", "no keys have a bias"),
        (key_bias, "", "b1 = Relu(scores)\na = Softmax<axis = -1>(b1)", "the softmax is not of a product"),
        (value_bias, "other = Relu(v)", "a = Softmax<axis = -1>(scores)", "Relu reads the same channels"),
        (
            value_bias,
            "",
            "c = Softmax<axis = -1>(scores)\na = Relu(c)",
            "Relu comes between the softmax and the values",
        ),
        (value_bias, "", "a = Softmax<axis = 2>(scores)", "no values have a bias"),
    ],
)
def test_refusals(rule: ModuleType, between: str, softmax: str, reason: str) -> None:
    graph = attention(between=between, softmax=softmax)
    assert rule.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(rule, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


@RULES
def test_without_a_bias(rule: ModuleType) -> None:
    assert rule.check(attention(bias=False), PREPROCESSING) == NOTHING[rule]


def over_channels(after: str) -> graphs.ir.Model:
    """Attention between channels: what is a token there is a channel of the layer."""
    body = f"""
        product = MatMul(x, w)
        k = Add(product, b)
        xt = Transpose<perm = [0, 2, 1]>(x)
        scores = MatMul(xt, k)
        a = Softmax<axis = -1>(scores)
        {after}
    """
    return graphs.model((1, 8, 8), body, w=graphs.random(8, 8), b=graphs.random(8))


def test_keys_that_are_channels() -> None:
    graph = over_channels("y = Identity(a)")
    assert key_bias.check(graph, PREPROCESSING) == "the channels differ from token to token"
    places, difference = rewritten(key_bias, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


def test_keys_that_are_padded() -> None:
    body = """
        product = MatMul(x, w)
        made = Add(product, b)
        wide = Pad(made, pads)
        k = Transpose<perm = [0, 2, 1]>(wide)
        scores = MatMul(x, k)
        y = Softmax<axis = -1>(scores)
    """
    pads = np.array([0, 0, 0, 0, 1, 0])
    graph = graphs.model((1, 5, 8), body, w=graphs.random(8, 8), b=graphs.random(8), pads=pads)
    assert key_bias.check(graph, PREPROCESSING) == "other values, or padding, join after the layer"
    places, _ = rewritten(key_bias, graph)
    assert places.changed == 0


def test_an_activation_before_the_projection() -> None:
    body = """
        product = MatMul(x, w)
        v = Add(product, b)
        a = Softmax<axis = -1>(x)
        o = MatMul(a, v)
        y = Relu(o)
    """
    graph = graphs.model((1, 8, 8), body, w=graphs.random(8, 8), b=graphs.random(8))
    reason = "Relu reads the attention, not a layer with constant weights"
    assert value_bias.check(graph, PREPROCESSING) == reason


@RULES
def test_dropping_more_than_its_own_part_is_wrong(rule: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_all(found: OperandBias, model: graphs.ir.Model) -> None:
        found.layer.set_bias(model, 0 * found.layer.bias)

    monkeypatch.setattr(OperandBias, "drop", drop_all)
    _, difference = rewritten(rule, attention())
    assert not is_exact(difference)
