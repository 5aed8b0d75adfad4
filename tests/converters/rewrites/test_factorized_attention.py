"""Factorized attention on rows of tokens."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import factorized_attention
from vitedge.converters.rewrites.apply import is_exact

HEADS, WIDTH, SIDE = 2, 3, 2
CHANNELS, PATCHES = HEADS * WIDTH, SIDE * SIDE

PARTS = (
    "split = Reshape(x, parts) moved = Transpose<perm = [2, 0, 3, 1, 4]>(split) "
    "q1, k1, v1 = Split<axis = 0, num_outputs = 3>(moved) q = Squeeze(q1, zero) k = Squeeze(k1, zero) "
    "v = Squeeze(v1, zero) "
)
ATTENTION = (
    "weights = Softmax<axis = 2>(k) turned = Transpose<perm = [0, 1, 3, 2]>(weights) product = MatMul(turned, v) "
    "attended = MatMul(q, product) scaled = Mul(attended, scale) "
)
MAP = (
    "vp = Slice(v, prefix, end, two) vt = Transpose<perm = [0, 1, 3, 2]>(vp) planes = Reshape(vt, map) "
    f"convolved = Conv<group = {CHANNELS}, pads = [1, 1, 1, 1]>(planes, w) "
    "ct = Reshape(convolved, columns) c = Transpose<perm = [0, 1, 3, 2]>(ct) "
)
TOTAL = "qp = Slice(q, prefix, end, two) p = Mul(qp, c) padded = Pad(p, pads) total = Add(scaled, padded) "
RESULT = "ot = Transpose<perm = [0, 2, 1, 3]>(total) rows = Reshape(ot, row) y = Relu(rows)"
WHOLE = PARTS + ATTENTION + MAP + TOTAL + RESULT


def model(body: str, *, prefix: int = 1, width: int = WIDTH) -> graphs.ir.Model:
    tokens, channels = PATCHES + prefix, HEADS * width
    integers = {
        "parts": (1, tokens, 3, HEADS, width),
        "map": (1, channels, SIDE, SIDE),
        "columns": (1, HEADS, width, PATCHES),
        "pads": (0, 0, prefix, 0, 0, 0, 0, 0),
        "behind": (0, 0, 0, 0, 0, 0, prefix, 0),
        "row": (1, tokens, channels),
        "zero": (0,),
        "two": (2,),
        "prefix": (prefix,),
        "end": (tokens,),
        "patches": (PATCHES,),
    }
    return graphs.model(
        (1, tokens, 3 * channels),
        body.replace(f"group = {CHANNELS}", f"group = {channels}"),
        w=graphs.random(channels, 1, 3, 3),
        scale=np.float32(0.3),
        **{name: np.array(values) for name, values in integers.items()},
    )


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize(
    "body", [WHOLE, WHOLE.replace("Add(scaled, padded)", "Add(padded, scaled)").replace("Mul(qp, c)", "Mul(c, qp)")]
)
def test_heads_stay_in_their_rows(prefix: int, body: str) -> None:
    graph = model(body, prefix=prefix)
    assert factorized_attention.check(graph, PREPROCESSING) == ""
    found, difference = rewritten(factorized_attention, graph)
    assert is_exact(difference)
    assert (found.changed, dict(found.left)) == (1, {})
    pixels = ["Slice", "Reshape", "Transpose", "Conv", "Transpose", "Reshape", "Slice", "Mul", "Pad"]
    attention = ["Softmax", "Transpose", "MatMul", "Mul", "MatMul"]
    assert sorted(kinds(graph)) == sorted(["Split", *attention, *pixels, "Add", "Relu"])
    assert factorized_attention.check(graph, PREPROCESSING) == factorized_attention.NOTHING


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (WHOLE.replace("Softmax<axis = 2>", "Softmax<axis = 3>"), factorized_attention.NOTHING),
        (WHOLE.replace("Pad(p, pads)", "Pad(p, behind)"), factorized_attention.OTHER_OPERATORS),
        (WHOLE.replace("MatMul(q, product) ", "MatMul(q, product) other = Relu(product) "),
         factorized_attention.OTHER_OPERATORS),
        (WHOLE.replace("Mul(attended, scale)", "Mul(attended, attended)"), factorized_attention.OTHER_OPERATORS),
        (WHOLE.replace("qp = Slice(q,", "qp = Slice(k,"), factorized_attention.OTHER_LAYOUT),
        (WHOLE.replace("qp = Slice(q, prefix, end, two)", "qp = Slice(q, zero, patches, two)"),
         factorized_attention.OTHER_LAYOUT),
        (WHOLE.replace("vp = Slice(v, prefix, end, two)", "vp = Slice(v, zero, patches, two)"),
         factorized_attention.OTHER_LAYOUT),
        (WHOLE.replace("Transpose<perm = [0, 1, 3, 2]>(vp)", "Identity(vp)"), factorized_attention.OTHER_LAYOUT),
        (WHOLE.replace("q = Squeeze(q1, zero) k = Squeeze(k1, zero)", "q = Squeeze(k1, zero) k = Squeeze(q1, zero)"),
         factorized_attention.OTHER_LAYOUT),
        (WHOLE.replace("Transpose<perm = [0, 2, 1, 3]>(total)", "Identity(total)"), factorized_attention.OTHER_LAYOUT),
    ],
)  # fmt: skip
def test_other_attention_stays(body: str, reason: str) -> None:
    assert factorized_attention.check(model(body), PREPROCESSING) == reason


def test_open_shapes_stay() -> None:
    graph = model(WHOLE)
    graphs.forget_shape(graph, "q")
    assert factorized_attention.check(graph, PREPROCESSING) == factorized_attention.OTHER_LAYOUT


def test_wide_heads_stay() -> None:
    assert factorized_attention.check(model(WHOLE, width=17), PREPROCESSING) == factorized_attention.TOO_WIDE
