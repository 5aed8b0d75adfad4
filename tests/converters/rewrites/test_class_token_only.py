from __future__ import annotations

import graphs
import pytest
from graphs import PREPROCESSING, rewritten

from vitedge.converters.rewrites import class_token_only
from vitedge.converters.rewrites.apply import is_exact
from vitedge.graph import bounds

IN_FULL = "every matrix product is read in full"
BLOCK = """
    qkv = MatMul(x, w) shape = Constant<value = int64[5] {1, 6, 3, 2, 4}>() r = Reshape(qkv, shape)
    t = Transpose<perm = [2, 0, 3, 1, 4]>(r) q0, k0, v0 = Split<axis = 0, num_outputs = 3>(t)
    zero = Constant<value = int64[1] {0}>() q = Squeeze(q0, zero) k = Squeeze(k0, zero) v = Squeeze(v0, zero)
    kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) a = Softmax<axis = -1>(s) o = MatMul(a, v)
    ot = Transpose<perm = [0, 2, 1, 3]>(o) flat = Constant<value = int64[3] {1, 6, 8}>() c = Reshape(ot, flat)
    p = MatMul(c, j) z = Add(x, p) n = LayerNormalization(z, g, b) m = MatMul(n, f) block = Add(z, m)
"""
CLASS_TOKEN = "i = Constant<value = int64 {0}>() one = Gather<axis = 1>(block, i) y = Relu(one)"


def headed(head: str) -> graphs.ir.Model:
    """A transformer block on ``(1, 6, 8)``, and what reads it."""
    weights = {"w": (8, 24), "j": (8, 8), "g": (8,), "b": (8,), "f": (8, 8)}
    return graphs.model((1, 6, 8), BLOCK + head, **{name: graphs.random(*shape) for name, shape in weights.items()})


def test_only_the_class_token_is_computed() -> None:
    graph = headed(CLASS_TOKEN)
    assert class_token_only.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(class_token_only, graph)
    assert is_exact(difference)
    products = [tuple(node.outputs[0].shape or ()) for node in graph.graph if node.op_type == "MatMul"]
    assert sorted(products) == sorted([(1, 6, 16), (1, 1, 8), (1, 2, 1, 6), (1, 2, 1, 4), (1, 1, 8), (1, 1, 8)])
    assert places.changed == 5  # the merged layer is one of them
    assert class_token_only.check(graph, PREPROCESSING) == IN_FULL


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("axes = Constant<value = int64[1] {1}>() y = ReduceMean<keepdims = 0>(block, axes)", IN_FULL),
        ("y = Identity(block)", IN_FULL),
        (f"{CLASS_TOKEN.replace('y =', 'token =')} found = NonZero(token) y = Cast<to = 1>(found)",
         "the graph has shapes that are not static"),
        ("""i = Constant<value = int64 {0}>() one = Gather<axis = 1>(block, i) sum = ReduceSum<keepdims = 0>(one)
            yes = Cast<to = 9>(sum)
            y = If<then_branch = t () => (float[1,8] t1) {t1 = Relu(one)},
                   else_branch = e () => (float[1,8] e1) {e1 = Neg(one)}>(yes)""",
         "the graph has branches"),
    ],
)  # fmt: skip
def test_refusals(head: str, reason: str) -> None:
    assert class_token_only.check(headed(head), PREPROCESSING) == reason


def test_a_wrong_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax that is taken for an operator by element is computed over a part of its axis."""
    graph = headed("""first = Constant<value = int64[1] {0}>() half = Constant<value = int64[1] {4}>()
        last = Constant<value = int64[1] {-1}>()
        normalized = Softmax(block) cut = Slice(normalized, first, half, last) y = Relu(cut)""")
    monkeypatch.setitem(bounds.RULES, "Softmax", bounds._pointwise)
    places, difference = rewritten(class_token_only, graph)
    assert places.changed > 0
    assert not is_exact(difference)
