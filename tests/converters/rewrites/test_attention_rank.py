"""Attention of windows, in four dimensions."""

from __future__ import annotations

import graphs
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import attention_rank
from vitedge.converters.rewrites.apply import is_exact
from vitedge.graph.values import shape_of

WINDOWS = (1, 6, 2, 5, 4)
"""Of queries, keys and values: six windows of five tokens, with two heads of width 4."""

ATTENTION = (
    "k = Transpose<perm = [0, 1, 2, 4, 3]>(half) s = MatMul(x, k) a = Softmax<axis = -1>(s) "
    "o = MatMul(a, double) y = Relu(o)"
)
MADE = "half = Mul(x, c) double = Add(x, c) "


def model(body: str, shape: tuple[int, ...] = WINDOWS) -> graphs.ir.Model:
    return graphs.model(shape, body, c=graphs.random(1), m=graphs.random(5, 5))


@pytest.mark.parametrize("shape", [WINDOWS, (2, 3, 2, 5, 4), (1, 2, 3, 2, 5, 4)])
def test_the_dimensions_before_the_heads_become_one(shape: tuple[int, ...]) -> None:
    rank = len(shape)
    order = f"{[*range(rank - 2), rank - 1, rank - 2]}"
    graph = model(MADE + ATTENTION.replace("[0, 1, 2, 4, 3]", order), shape)
    assert attention_rank.check(graph, PREPROCESSING) == ""
    found, difference = rewritten(attention_rank, graph)
    assert is_exact(difference)
    assert (found.changed, dict(found.left)) == (1, {})
    operators = [*("Reshape", "Transpose", "Reshape", "MatMul", "Softmax"), "Reshape", "MatMul", "Reshape", "Relu"]
    assert sorted(kinds(graph)) == sorted(["Mul", "Add", *operators])
    products = [node for node in graph.graph if node.op_type in ("MatMul", "Softmax")]
    assert {len(shape_of(node.outputs[0]) or ()) for node in products} == {4}
    assert attention_rank.check(graph, PREPROCESSING) == attention_rank.NOTHING


def test_keys_that_are_not_turned_are_reshaped_themselves() -> None:
    body = "k = Mul(x, c) s = MatMul(x, k) a = Softmax<axis = 4>(s) o = MatMul(a, x) y = Relu(o)"
    graph = model(body, (1, 6, 2, 4, 4))
    _, difference = rewritten(attention_rank, graph)
    assert is_exact(difference)
    assert kinds(graph).count("Reshape") == 4


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ATTENTION.replace("Relu(o)", "Add(o, o) z = Relu(a)"), attention_rank.OTHERS_READ),
        (ATTENTION.replace("axis = -1", "axis = 2"), attention_rank.OTHER_AXIS),
        (ATTENTION.replace("o = MatMul(a, double) y = Relu(o)", "y = MatMul(a, double)"), attention_rank.OUTPUT),
        ("k = Transpose<perm = [1, 0]>(m) s = MatMul(x, x) a = Softmax(s) y = Relu(a)", attention_rank.NOTHING),
    ],
)
def test_other_attention_stays(body: str, reason: str) -> None:
    shape = WINDOWS if "half" in body else (1, 6, 2, 4, 4)
    assert attention_rank.check(model(MADE + body if "half" in body else body, shape), PREPROCESSING) == reason


def test_values_that_all_windows_share_stay() -> None:
    body = "s = MatMul(x, x) a = Softmax(s) o = MatMul(a, v) y = Relu(o)"
    graph = graphs.model((1, 6, 2, 4, 4), body, v=graphs.random(2, 4, 3))
    assert attention_rank.check(graph, PREPROCESSING) == attention_rank.BROADCAST


def test_attention_of_four_dimensions_stays() -> None:
    body = "s = MatMul(x, x) a = Softmax(s) o = MatMul(a, x) y = Relu(o)"
    assert attention_rank.check(model(body, (6, 2, 4, 4)), PREPROCESSING) == attention_rank.NOTHING
