from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx_ir as ir
import openvino
import pytest
from graphs import PREPROCESSING, random, rewritten
from hypothesis import given
from hypothesis import strategies as st

from vitedge.converters.rewrites import padding_tokens
from vitedge.converters.rewrites.apply import is_exact
from vitedge.converters.rewrites.padding_tokens import HIDDEN, LARGEST_SHARE, MULTIPLES, padding_for
from vitedge.graph.values import shape_of
from vitedge.metrics import sqnr_db
from vitedge.runtime.engines.openvino import native_float

ATTENTION = """
    qkv = MatMul(tokens, w) parts = Reshape(qkv, five) t = Transpose<perm = [2, 0, 3, 1, 4]>(parts)
    q0, k0, v0 = Split<axis = 0, num_outputs = 3>(t) q = Squeeze(q0, zero) k = Squeeze(k0, zero) v = Squeeze(v0, zero)
    kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt)
"""
BLOCK = """
    a = Softmax<axis = -1>(scores) o = MatMul(a, v) ot = Transpose<perm = [0, 2, 1, 3]>(o) c = Reshape(ot, three)
    p = MatMul(c, j) z = Add(tokens, p) n = LayerNormalization(z, g) rows = Reshape(n, two)
    f = Gemm<transB = 1>(rows, fw, fb) m = Reshape(f, three) gelu = Gelu(m) block = Add(z, gelu)
"""
JOINED = "cat = Concat<axis = 1>(class, x) tokens = Add(cat, places) "
SEEN = "scores = Identity(s) "
CLASS_TOKEN = "y = Gather<axis = 1>(block, first)"
CONSTANTS: dict[str, Any] = {
    "class": random(1, 1, 8),
    "places": random(1, 51, 8),
    "w": random(8, 24),
    "five": np.array([1, 51, 3, 2, 4]),
    "zero": np.array([0]),
    "three": np.array([1, 51, 8]),
    "two": np.array([51, 8]),
    "j": random(8, 8),
    "g": random(8),
    "fw": random(8, 8, seed=1),
    "fb": random(8, seed=2),
    "first": np.array(0),
    "last": np.array(-1),
    "from1": np.array([1]),
    "back": np.array([-50]),
    "end": np.array([2**62]),
    "axis": np.array([1]),
    "few": np.array([0, 1, 2]),
    "bias": random(2, 51, 51),
    "registers": random(1, 5, 8),
    "mixer": random(51, 51),
    "half": np.array(0.5),
    "whole": random(51, 8),
    "sizes": np.array([1, 50]),
    "all": np.array([1, 408]),
    "four": np.array([4]),
    "channels": np.array([2]),
}


def block(*, patches: int = 50, joined: str = JOINED, seen: str = SEEN, head: str = CLASS_TOKEN) -> ir.Model:
    """Patches and other tokens, 51 in all, a transformer block, and what reads it."""
    return graphs.model((1, patches, 8), joined + ATTENTION + seen + BLOCK + head, **CONSTANTS)


def tokens(graph: ir.Model) -> set[int]:
    """Sizes between 50 and 60 of whatever operators make."""
    shapes = [shape_of(value) or () for node in graph.graph for value in node.outputs]
    return {size for shape in shapes for size in shape if 50 <= size < 60}


@pytest.mark.parametrize(
    ("number", "expected"),
    [(197, 3), (577, 7), (257, 3), (198, 2), (65, 1), (51, 1), (50, 0), (17, 0), (196, 0), (200, 0)],
)
def test_how_many(number: int, expected: int) -> None:
    assert padding_for(number) == expected


@given(number=st.integers(1, 5000))
def test_few_are_added_and_only_where_they_help(number: int) -> None:
    extra = padding_for(number)
    assert extra <= LARGEST_SHARE * number
    assert extra == 0 or (number + extra) % min(MULTIPLES) == 0


def test_a_block_has_an_even_number_of_rows_throughout() -> None:
    graph = block()
    assert padding_tokens.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(padding_tokens, graph)
    assert (places.changed, places.left) == (1, {})
    assert is_exact(difference)
    assert tokens(graph) == {52}
    assert padding_tokens.check(graph, PREPROCESSING) == "no number of tokens is hard to share out among cores"
    assert "places" not in graph.graph.initializers  # it has no reader any more


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "y = Gather<axis = 1>(block, last)"},
        {"head": "y = Gather<axis = 1>(block, few)"},
        {"head": "rest = Slice(block, from1, end, axis) y = ReduceMean<keepdims = 0>(rest, axis)"},
        {"head": "rest = Slice(block, back, end, axis) y = ReduceMean<keepdims = 0>(rest, axis)"},
        {"head": "part = Slice(block, from1, end, axis) again = Concat<axis = 1>(part, class) y = Identity(again)"},
        {"head": "wide = Concat<axis = 2>(block, tokens) y = Gather<axis = 1>(wide, first)"},
        {"head": "narrow = Slice(block, zero, four, channels) y = Gather<axis = 1>(narrow, first)"},
        {"head": "left, right = Split<axis = 2, num_outputs = 2>(block) y = Gather<axis = 1>(right, first)"},
        {"seen": "scores = Add(s, bias) "},
        {"seen": "scaled = Mul(s, half) scores = Add(bias, scaled) "},
        {"joined": "cat = Concat<axis = 1>(x, class) tokens = Add(places, cat) "},
        {"patches": 46, "joined": "cat = Concat<axis = 1>(registers, x) tokens = Add(cat, places) "},
        {"joined": "one = Gather<axis = 1>(x, zero) cat = Concat<axis = 1>(one, x) tokens = Add(cat, places) "},
        {"joined": "cat = Concat<axis = 1>(class, x) tokens = Identity(cat) "},
    ],
)  # fmt: skip
def test_nobody_sees_them(changes: dict[str, Any]) -> None:
    graph = block(**changes)
    places, difference = rewritten(padding_tokens, graph)
    assert places.changed == 1
    assert is_exact(difference)
    assert 52 in tokens(graph)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": "y = ReduceMean<keepdims = 0>(block, axis)"}, "ReduceMean would mix padding tokens with the others"),
        ({"head": "y = Identity(block)"}, "the outputs are one a token"),
        ({"head": "more = Concat<axis = 1>(block, class) y = Gather<axis = 1>(more, first)"},
         "Concat would mix padding tokens with the others"),
        ({"head": "turned = Transpose<perm = [0, 2, 1]>(block) mixed = MatMul(turned, mixer) y = Relu(mixed)"},
         "MatMul would mix padding tokens with the others"),
        ({"head": "over = LayerNormalization<axis = 1>(block, whole) y = Gather<axis = 1>(over, first)"},
         "LayerNormalization would mix padding tokens with the others"),
        ({"seen": "scores = Identity(s) r = Softmax<axis = -2>(s) "},
         "Softmax would mix padding tokens with the others"),
        ({"seen": "scores = Identity(s) r = MatMul(s, v) "}, "MatMul would mix padding tokens with the others"),
        ({"head": "one, others = Split<axis = 1>(block, sizes) y = Identity(one)"},
         "Split would mix padding tokens with the others"),
        ({"head": "flat = Reshape(block, all) y = Relu(flat)"}, "Reshape would mix padding tokens with the others"),
    ],
)  # fmt: skip
def test_refusals(changes: dict[str, Any], reason: str) -> None:
    graph = block(**changes)
    assert padding_tokens.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(padding_tokens, graph)
    assert (places.changed, places.left) == (0, {reason: 1})
    assert is_exact(difference)


def test_tokens_that_do_not_attend_to_one_another_need_none() -> None:
    body = "tokens = Concat<axis = 1>(class, x) m = MatMul(tokens, j) y = Gather<axis = 1>(m, first)"
    graph = graphs.model((1, 50, 8), body, **CONSTANTS)
    assert padding_tokens.check(graph, PREPROCESSING) == "these tokens do not attend to one another"


def test_keys_that_are_seen_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding_tokens, "HIDDEN", 0.0)
    _, difference = rewritten(padding_tokens, block())
    assert not is_exact(difference)


@pytest.mark.parametrize("joined", [JOINED, "cat = Concat<axis = 1>(x, class) tokens = Add(cat, places) "])
def test_they_are_copies_wherever_they_go(joined: str) -> None:
    """So that calibration meets no values that a network does not have."""
    graph, copied = block(joined=joined), 0 if joined is JOINED else 50
    padding_tokens.rewrite(graph, PREPROCESSING)
    (last,) = (value for node in graph.graph for value in node.outputs if value.name == "block")
    graph.graph.outputs[:] = [last]
    rows = graphs.outputs(graph).reshape(4, 52, 8)
    np.testing.assert_array_equal(rows[:, 51], rows[:, copied])


def test_hidden_keys_weigh_less_than_float32_resolves() -> None:
    """Copies of a token that all others attend to are the worst: the sum of the weights must stay 1."""
    weights = np.array([1.0] + [np.exp(np.float32(HIDDEN))] * (max(MULTIPLES) - 1), np.float32)
    assert weights.sum() == 1


@pytest.mark.parametrize("precision", ["f32", "native"])
def test_openvino_computes_the_mask_as_it_is(precision: str) -> None:
    """Its attention in bfloat16 reads masks wrongly that are broadcast over heads."""
    graph = block()
    expected = graphs.outputs(graph)
    padding_tokens.rewrite(graph, PREPROCESSING)
    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": native_float(core) if precision == "native" else precision}
    model = core.compile_model(core.read_model(ir.to_proto(graph).SerializeToString()), "CPU", hint)
    found = np.stack([model([random(1, 50, 8, seed=image)])[0].ravel() for image in range(4)])
    assert sqnr_db(expected, found) > 30
