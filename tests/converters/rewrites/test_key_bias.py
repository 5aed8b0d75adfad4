from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, attention, attentions, kinds, rewritten
from hypothesis import given, settings

from vitedge.converters.rewrites import is_exact, key_bias
from vitedge.converters.rewrites.operand_bias import OperandBias

NOTHING = "no keys have a bias"
KEYS = slice(graphs.CHANNELS, 2 * graphs.CHANNELS)


@settings(deadline=None, max_examples=30)
@given(graph=attentions)
def test_any_attention(graph: graphs.ir.Model) -> None:
    assert key_bias.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(key_bias, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert key_bias.check(graph, PREPROCESSING) == NOTHING


def test_a_layer_of_its_own_loses_its_bias() -> None:
    graph = attention(fused=False)
    additions = kinds(graph).count("Add")
    rewritten(key_bias, graph)
    assert kinds(graph).count("Add") == additions - 1


def test_only_a_part_of_a_fused_bias_goes() -> None:
    graph = attention()
    before = graph.graph.initializers["b"].const_value.numpy().copy()
    rewritten(key_bias, graph)
    after = graph.graph.initializers["product_bias"].const_value.numpy()
    before[KEYS] = 0
    assert (after == before).all()


@pytest.mark.parametrize(
    ("between", "softmax", "reason"),
    [
        ("other = Relu(k)", "a = Softmax<axis = -1>(scores)", "Relu reads the same channels"),
        ("", "a = Softmax<axis = 2>(scores)", NOTHING),
        ("", "b1 = Relu(scores)\na = Softmax<axis = -1>(b1)", "the softmax is not of a product"),
    ],
)
def test_refusals(between: str, softmax: str, reason: str) -> None:
    graph = attention(between=between, softmax=softmax)
    assert key_bias.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(key_bias, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


def test_without_a_bias() -> None:
    assert key_bias.check(attention(bias=False), PREPROCESSING) == NOTHING


def attended(keys: str) -> graphs.ir.Model:
    """Weights of ``x`` for keys made by the given lines, ``k``, from a layer ``made``, on ``(1, 8, 8)``."""
    body = f"""
        product = MatMul(x, w)
        made = Add(product, b)
        {keys}
        scores = MatMul(x, k)
        y = Softmax<axis = -1>(scores)
    """
    return graphs.model((1, 8, 8), body, w=graphs.random(8, 8), b=graphs.random(8), pads=np.array([0, 0, 0, 0, 1, 0]))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("k = Identity(made)", "the channels differ from token to token"),
        ("wide = Pad(made, pads)\nk = Transpose<perm = [0, 2, 1]>(wide)",
         "other values, or padding, join after the layer"),
        ("wide = Concat<axis = 1>(made, x)\nk = Transpose<perm = [0, 2, 1]>(wide)",
         "other values, or padding, join after the layer"),
        ("r = Relu(made)\nk = Transpose<perm = [0, 2, 1]>(r)",
         "the operand is not made by a layer with constant weights"),
    ],
)  # fmt: skip
def test_keys_with_a_bias_that_does_not_cancel(keys: str, reason: str) -> None:
    graph = attended(keys)
    assert key_bias.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(key_bias, graph)
    assert (places.changed, dict(places.left)) == (0, {reason: 1})
    assert difference.max_abs_error == 0


def test_a_layer_of_unknown_shape() -> None:
    graph = attended("k = Transpose<perm = [0, 2, 1]>(made)")
    assert key_bias.check(graph, PREPROCESSING) == ""
    graphs.forget_shape(graph, "made")
    assert key_bias.check(graph, PREPROCESSING) == "the shape of the operand is not known"


def test_dropping_more_than_its_own_part_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OperandBias, "apply", lambda found, model: found.layer.set_bias(model, 0 * found.layer.bias))
    _, difference = rewritten(key_bias, attention())
    assert not is_exact(difference)
