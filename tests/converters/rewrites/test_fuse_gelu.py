from __future__ import annotations

import graphs
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import fuse_gelu
from vitedge.converters.rewrites.apply import is_exact
from vitedge.converters.rewrites.scalars import Product

CONSTANTS = """one = Constant<value = float {1.0}>() half = Constant<value = float {0.5}>()
    root = Constant<value = float {1.4142135}>() inverse = Constant<value = float {0.70710677}>()
    c = Constant<value = float {0.044715}>() three = Constant<value = float {3.0}>()
    t = Constant<value = float {0.7978846}>() """
FORMS = {
    "x(1+erf)/2": "e = Erf(k) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
    "x((1+erf)/2)": "e = Erf(k) p = Add(one, e) m = Mul(half, p) y = Mul(x, m)",
    "(x/2)(1+erf)": "h = Mul(x, half) e = Erf(k) p = Add(e, one) y = Mul(p, h)",
}
TANH = {
    "pow": "q = Pow(x, three) r = Mul(c, q) a = Add(x, r) u = Mul(a, t)",
    "products": "xx = Mul(x, x) q = Mul(xx, x) r = Mul(c, q) a = Add(r, x) u = Mul(t, a)",
    "factored": "xx = Mul(x, x) r = Mul(xx, c) a = Add(r, one) z = Mul(x, a) u = Mul(z, t)",
}
GATE = "e = Tanh(u) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)"


def spelled_out(lines: str) -> graphs.ir.Model:
    return graphs.model((1, 5, 8), CONSTANTS + lines)


@pytest.mark.parametrize(
    ("lines", "approximate"),
    [
        *(
            (f"k = {argument} {form}", "none")
            for argument in ("Div(x, root)", "Mul(inverse, x)")
            for form in FORMS.values()
        ),
        *((f"{form} {GATE}", "tanh") for form in TANH.values()),
    ],
)
def test_every_spelling_becomes_one_operator(lines: str, approximate: str) -> None:
    graph = spelled_out(lines)
    assert fuse_gelu.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(fuse_gelu, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert [(node.op_type, node.attributes.get_string("approximate")) for node in graph.graph] == [
        ("Gelu", approximate)
    ]
    assert fuse_gelu.check(graph, PREPROCESSING) == "no GELU is spelled out"


def test_one_that_reads_another_leaves_nothing_of_it() -> None:
    lines = ""
    for source, result in (("x", "first"), ("first", "y")):
        lines += f"""{result}_k = Div({source}, root) {result}_e = Erf({result}_k) {result}_p = Add({result}_e, one)
            {result}_m = Mul({source}, {result}_p) {result} = Mul({result}_m, half) """
    graph = spelled_out(lines)
    places, difference = rewritten(fuse_gelu, graph)
    assert is_exact(difference)
    assert places.changed == 2
    assert kinds(graph) == ["Gelu", "Gelu"]


@pytest.mark.parametrize(
    "lines",
    [
        f"k = Div(x, half) {FORMS['x(1+erf)/2']}",
        f"k = Identity(x) {FORMS['x(1+erf)/2']}",
        "k = Div(x, root) e = Erf(k) p = Add(e, half) m = Mul(x, p) y = Mul(m, half)",
        "k = Div(x, root) e = Erf(k) p = Add(e, one) m = Mul(k, p) y = Mul(m, half)",
        "y = Tanh(x)",
    ],
)
def test_erf_or_tanh_of_something_else_is_left(lines: str) -> None:
    graph = spelled_out(lines)
    assert fuse_gelu.check(graph, PREPROCESSING) == fuse_gelu.NO_GELU
    places, difference = rewritten(fuse_gelu, graph)
    assert (places.changed, dict(places.left)) == (0, {fuse_gelu.NO_GELU: 1})
    assert difference.max_abs_error == 0


def test_without_its_guard_the_fusion_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = spelled_out(f"k = Div(x, half) {FORMS['x(1+erf)/2']}")
    monkeypatch.setattr(Product, "is_of", lambda *arguments: True)
    places, difference = rewritten(fuse_gelu, graph)
    assert places.changed == 1
    assert not is_exact(difference)
