from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, attention, kinds, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.converters.rewrites import attention_scale, multipliers
from vitedge.converters.rewrites.apply import is_exact

NOTHING = "no attention is scaled by a constant"
COSINE = "queries and keys are divided by their norm after the layer (cosine attention)"


@settings(deadline=None, max_examples=40)
@given(
    scale=st.sampled_from(["queries", "keys", "both", "scores", "divided"]),
    fused=st.booleans(),
    bias=st.booleans(),
    mask=st.booleans(),
    factor=st.floats(0.0625, 4, width=32),
    per_head=st.booleans(),
    seed=st.integers(0, 100),
)
def test_wherever_the_scale_is(
    scale: str, fused: bool, bias: bool, mask: bool, factor: float, per_head: bool, seed: int
) -> None:
    values = np.array([factor, 1 / factor]).reshape(graphs.HEADS, 1, 1) if per_head else factor
    graph = attention(scale=scale, fused=fused, bias=bias, mask=mask, factor=values, seed=seed)
    assert attention_scale.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(attention_scale, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert not {"Mul", "Div"} & {*kinds(graph)}
    assert attention_scale.check(graph, PREPROCESSING) == NOTHING


def test_only_the_queries_of_a_fused_layer_change() -> None:
    graph = attention(scale="scores")
    before = graph.graph.initializers["w"].const_value.numpy()
    rewritten(attention_scale, graph)
    (product,) = (node for node in graph.graph if node.inputs[0] is graph.graph.inputs[0])
    after = product.inputs[1].const_value.numpy()
    np.testing.assert_array_equal(after[:, : graphs.CHANNELS], 0.5 * before[:, : graphs.CHANNELS])
    np.testing.assert_array_equal(after[:, graphs.CHANNELS :], before[:, graphs.CHANNELS :])


def test_a_scale_on_the_scores_goes_to_the_keys_where_the_queries_have_another_reader() -> None:
    graph = attention(scale="scores", between="other = Relu(q)")
    places, difference = rewritten(attention_scale, graph)
    assert places.changed == 1
    assert is_exact(difference)


@pytest.mark.parametrize(
    ("scale", "between", "reason"),
    [
        ("none", "", NOTHING),
        ("queries", "other = Relu(q)", "Relu reads the same channels without it"),
        ("scores", "other = Relu(q)\nanother = Relu(k)", "Relu reads the same channels without it"),
    ],
)
def test_refusals(scale: str, between: str, reason: str) -> None:
    graph = attention(scale=scale, between=between)
    assert attention_scale.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(attention_scale, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


def product_of(queries: str, scaled: str = "y = Mul(scores, s)", factor: object = 0.5) -> graphs.ir.Model:
    """Scores of queries made by the given lines, ``q``, with keys made by other lines, ``k``."""
    body = f"""
        linear = MatMul(x, w)
        {queries}
        keys = Relu(x)
        k = Transpose<perm = [0, 2, 1]>(keys)
        scores = MatMul(q, k)
        {scaled}
    """
    constants = {"w": graphs.random(8, 8), "s": np.asarray(factor, np.float32), "last": np.array([-1])}
    return graphs.model((1, 5, 8), body, **constants)


@pytest.mark.parametrize(
    ("queries", "factor", "reason"),
    [
        ("norm = ReduceL2(linear, last)\nq = Div(linear, norm)", 0.5, COSINE),
        ("q = Gelu(linear)", 0.5, "Gelu makes what is multiplied, not a layer with constant weights"),
        ("q = Identity(linear)", np.ones((5, 1)), "the scale differs from token to token"),
        ("q = Identity(linear)", np.ones((2, 1, 1)), "the multiplication widens its input"),
        ("q = Concat<axis = 1>(linear, x)", 0.5, "other values join before the multiplication"),
    ],
)
def test_queries_that_cannot_be_scaled(queries: str, factor: object, reason: str) -> None:
    graph = product_of(queries, factor=factor)
    assert attention_scale.check(graph, PREPROCESSING) == reason
    places, _ = rewritten(attention_scale, graph)
    assert dict(places.left) == {reason: 1}


def test_queries_of_unknown_shape() -> None:
    graph = product_of("q = Identity(linear)")
    graphs.forget_shape(graph, "linear")
    assert attention_scale.check(graph, PREPROCESSING) == "the shape of what is multiplied is not known"


def test_a_division_by_zero_stays() -> None:
    graph = product_of("q = Identity(linear)", "y = Div(scores, s)", factor=0.0)
    assert attention_scale.check(graph, PREPROCESSING) == "it divides by zero"


def test_normalized_queries_take_the_scale_in_their_normalization() -> None:
    body = """
        q = LayerNormalization(x, gamma, beta)
        k = Transpose<perm = [0, 2, 1]>(x)
        scores = MatMul(q, k)
        y = Mul(scores, s)
    """
    graph = graphs.model(
        (1, 5, 8), body, gamma=graphs.random(8), beta=graphs.random(8, seed=1), s=np.float32(0.25).reshape(())
    )
    places, difference = rewritten(attention_scale, graph)
    assert places.changed == 1
    assert is_exact(difference)


def test_without_its_guard_the_fold_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = attention(scale="queries", between="other = Relu(q)")
    graph.graph.outputs.append(next(node for node in graph.graph if node.op_type == "Relu").outputs[0])
    monkeypatch.setattr(multipliers, "_blocked", lambda reading, others: "")
    places, difference = rewritten(attention_scale, graph)
    assert places.changed == 1
    assert not is_exact(difference)
