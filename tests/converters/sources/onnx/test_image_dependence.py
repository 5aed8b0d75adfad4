"""Sizes and branches that an image decides are found; those that only its size decides are not."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from vitedge.converters.sources.onnx.image_dependence import first_dependence
from vitedge.graph.folding import fold_constants

CONSTANTS = """float one = {1.0}, int64[1] axis = {0}, int64[2] two = {2, 2}, float start = {0}, float step = {1},
    int64[1] none = {0}, int64 depth = {5}, float[2] off_on = {0, 1}, bool yes = {1}"""


def found(body: str) -> str:
    """The operator that is found in a graph of an image ``x`` and an output ``y``."""
    text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1,3,32,32] x) => (float[N,M] y) <{CONSTANTS}> {{ {body} }}
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    fold_constants(model)
    node = first_dependence(model.graph)
    return "" if node is None else node.op_type


SUM = "s = ReduceSum<keepdims = 0>(x) i = Cast<to = 7>(s) v = Reshape(i, axis)"


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        (f"{SUM} y = Expand(one, v)", "Expand"),
        (f"{SUM} c = ConstantOfShape(v) y = Neg(c)", "ConstantOfShape"),
        ("s = ReduceMax<keepdims = 0>(x) r = Range(start, s, step) y = Neg(r)", "Range"),
        (f"{SUM} f = Flatten(x) p = Concat<axis = 0>(v, v) t = Tile(f, p) y = Neg(t)", "Tile"),
        (f"{SUM} f = Flatten(x) p = Concat<axis = 0>(v, v, v, v) q = Pad(f, p) y = Neg(q)", "Pad"),
        (f"{SUM} f = Flatten(x) w = Slice(f, none, v, axis) y = Neg(w)", "Slice"),
        (f"{SUM} f = Flatten(x) w, j = TopK(f, v) y = Neg(w)", "TopK"),
        (f"{SUM} o = OneHot(none, i, off_on) y = Neg(o)", "OneHot"),
        ("n = NonZero(x) y = Cast<to = 1>(n)", "NonZero"),
        ("f = Flatten(x) u = Unique(f) y = Neg(u)", "Unique"),
        ("f = Flatten(x) c = Cast<to = 9>(f) w = Reshape(c, axis) y = Compress(f, w)", "Compress"),
        ("r = RandomUniform<shape = [1], high = 9.0>() i = Cast<to = 7>(r) y = ConstantOfShape(i)", "ConstantOfShape"),
        (
            "s = ReduceMax<keepdims = 0>(x) c = Greater(s, one) f = Flatten(x) "
            "y = If <then_branch = t () => (float[a,b] p) {p = Neg(f)}, "
            "else_branch = e () => (float[a,b] q) {q = Abs(f)}> (c)",
            "If",
        ),
    ],
)
def test_what_an_image_decides(body: str, operator: str) -> None:
    assert found(body) == operator


@pytest.mark.parametrize(
    "body",
    [
        "y = Flatten(x)",
        "s = Shape(x) n = Size(x) r = Reshape(x, two) y = Neg(r)",
        "f = Flatten(x) s = Shape(f) z = ConstantOfShape(s) w = Cast<to = 1>(z) y = Add(f, w)",
        "f = Flatten(x) a = ArgMax<axis = 1>(f) g = Gather<axis = 1>(f, a) y = Flatten(g)",
        "f = Flatten(x) d = Reshape(depth, axis) w, j = TopK(f, d) g = GatherElements<axis = 1>(f, j) y = Neg(g)",
        "f = Flatten(x) m = ReduceMax<keepdims = 0>(f) c = Clip(f, start, m) y = Neg(c)",
        "f = Flatten(x) y = If <then_branch = t () => (float[a,b] p) {p = Neg(f)}, "
        "else_branch = e () => (float[a,b] q) {q = Abs(f)}> (yes)",
        "n = NonZero(off_on) i = Cast<to = 1>(n) f = Flatten(x) y = Add(f, i)",
    ],
)
def test_what_no_image_decides(body: str) -> None:
    assert not found(body)
