from __future__ import annotations

import graphs
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import distilled_heads
from vitedge.converters.rewrites.apply import is_exact

NO_SUM = "the logits are not a sum of linear layers"
AVERAGES = {
    "over two": "s = Add(one, two) h = Constant<value = float {2.0}>() y = Div(s, h)",
    "by a half": "s = Add(one, two) h = Constant<value = float {0.5}>() y = Mul(h, s)",
    "each halved": "h = Constant<value = float {2.0}>() a = Div(one, h) c = Div(two, h) y = Add(a, c)",
    "mean": "y = Mean(one, two)",
    "stacked": """zero = Constant<value = int64[1] {0}>() a = Unsqueeze(one, zero) c = Unsqueeze(two, zero)
        s = Concat<axis = 0>(a, c) y = ReduceMean<keepdims = 0>(s, zero)""",
    "sum": "y = Add(one, two)",
}
TOKENS = """i = Constant<value = int64 {0}>() j = Constant<value = int64 {1}>()
    f = Gather<axis = 1>(x, i) d = Gather<axis = 1>(x, j)
    one = Gemm<transB = 1>(f, w, b) two = Gemm<transB = 1>(d, k)"""


def headed(body: str, *shape: int) -> graphs.ir.Model:
    weights = {"w": graphs.random(4, 8), "k": graphs.random(4, 8, seed=1), "b": graphs.random(4)}
    return graphs.model(shape, body, **weights, kt=graphs.random(8, 4))


@pytest.mark.parametrize("average", AVERAGES)
def test_heads_of_two_tokens_become_one(average: str) -> None:
    graph = headed(f"{TOKENS} {AVERAGES[average]}", 1, 5, 8)
    assert distilled_heads.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(distilled_heads, graph)
    assert is_exact(difference)
    assert places.changed == 1
    assert kinds(graph) == ["Slice", "Reshape", "Gemm"]
    assert distilled_heads.check(graph, PREPROCESSING) == "there is one head"


@pytest.mark.parametrize(
    ("first", "second", "tokens", "left"),
    [
        (0, 1, 2, ["Reshape"]),
        (3, 4, 5, ["Slice", "Reshape"]),
        (1, 0, 5, ["Gather", "Gather", "Concat"]),
        (0, 2, 5, ["Gather", "Gather", "Concat"]),
    ],
)
def test_neighbouring_tokens_are_cut_out_together(first: int, second: int, tokens: int, left: list[str]) -> None:
    body = TOKENS.replace("int64 {0}", f"int64 {{{first}}}").replace("int64 {1}", f"int64 {{{second}}}")
    graph = headed(f"{body} {AVERAGES['over two']}", 1, tokens, 8)
    _, difference = rewritten(distilled_heads, graph)
    assert is_exact(difference)
    assert kinds(graph) == [*left, "Gemm"]


def test_tokens_of_two_values_are_concatenated() -> None:
    graph = headed(f"{TOKENS.replace('Gather<axis = 1>(x, j)', 'Relu(f)')} {AVERAGES['over two']}", 1, 5, 8)
    _, difference = rewritten(distilled_heads, graph)
    assert is_exact(difference)
    assert kinds(graph) == ["Gather", "Relu", "Concat", "Gemm"]


@pytest.mark.parametrize("average", AVERAGES)
def test_heads_of_the_same_features_add_up(average: str) -> None:
    graph = headed(f"one = Gemm<transB = 1>(x, w, b) two = MatMul(x, kt) {AVERAGES[average]}", 1, 8)
    places, difference = rewritten(distilled_heads, graph)
    assert is_exact(difference)
    assert places.changed == 1
    assert kinds(graph) == ["Gemm"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Gemm<transB = 1>(x, w)", "there is one head"),
        ("a = Gemm<transB = 1>(x, w) y = Relu(a)", NO_SUM),
        ("a = Gemm<transB = 1>(x, w) r = Relu(a) y = Add(r, a)", NO_SUM),
        ("a = Gemm<transB = 1>(x, w) z = Gemm<transB = 1>(x, k) y = Mul(a, z)", NO_SUM),
    ],
)
def test_refusals(body: str, reason: str) -> None:
    assert distilled_heads.check(headed(body, 1, 8), PREPROCESSING) == reason


def test_heads_of_every_token_are_left() -> None:
    body = f"one = MatMul(x, kt) two = MatMul(x, kt) {AVERAGES['over two']}"
    assert distilled_heads.check(headed(body, 1, 5, 8), PREPROCESSING) == NO_SUM


def test_a_share_that_is_forgotten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = headed(f"{TOKENS} {AVERAGES['over two']}", 1, 5, 8)
    scaled = distilled_heads._scaled
    monkeypatch.setattr(distilled_heads, "_scaled", lambda value: (found := scaled(value)) and (found[0], 1.0))
    places, difference = rewritten(distilled_heads, graph)
    assert places.changed == 1
    assert not is_exact(difference)
