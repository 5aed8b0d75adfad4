"""Rotary position embedding of all tokens at once."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import rotary_embedding
from vitedge.converters.rewrites.apply import is_exact

HEADS, TOKENS, PREFIX, WIDTH = 2, 6, 3, 4

CUT = "prefix, patches = Split<axis = 2>(x, tokens) "
SLICED = "prefix = Slice(x, zero, three, two) patches = Slice(x, three, end, two) "
HALVES = "left, right = Split<axis = 3, num_outputs = 2>(patches) negative = Neg(right) "
SLICED_HALVES = "left = Slice(patches, zero, two, last) right = Slice(patches, two, end, last) negative = Neg(right) "
SWAPPED = "swapped = Concat<axis = -1>(negative, left) "
TABLES = "sine, cosine = Split<axis = 1, num_outputs = 2>(table) "
ROTATED = "a = Mul(patches, cosine) b = Mul(swapped, sine) rotated = Add(a, b) "
JOINED = "joined = Concat<axis = 2>(prefix, rotated) y = Relu(joined)"
WHOLE = CUT + HALVES + SWAPPED + TABLES + ROTATED + JOINED


def model(body: str) -> graphs.ir.Model:
    integers = {"zero": 0, "two": 2, "three": 3, "last": 3, "end": 2**31}
    return graphs.model(
        (1, HEADS, TOKENS, WIDTH),
        body,
        **{name: np.array([value]) for name, value in integers.items()},
        tokens=np.array([PREFIX, TOKENS - PREFIX]),
        table=graphs.random(TOKENS - PREFIX, 2 * WIDTH),
        wide=graphs.random(1, 1, TOKENS - PREFIX, WIDTH),
        heads=graphs.random(1, HEADS, TOKENS - PREFIX, WIDTH),
    )


@pytest.mark.parametrize(
    "body",
    [
        WHOLE,
        WHOLE.replace(CUT, SLICED),
        WHOLE.replace(HALVES, SLICED_HALVES),
        WHOLE.replace("Mul(patches, cosine)", "Mul(wide, patches)"),
        WHOLE.replace("Add(a, b)", "Add(b, a)"),
        WHOLE.replace("Neg(right)", "Neg(left)").replace("(negative, left)", "(right, negative)"),
        WHOLE.replace("(negative, left)", "(right, left)"),
    ],
)
def test_all_tokens_are_rotated_and_halves_swapped_by_a_gather(body: str) -> None:
    graph = model(body)
    assert rotary_embedding.check(graph, PREPROCESSING) == ""
    found, difference = rewritten(rotary_embedding, graph)
    assert is_exact(difference)
    assert (found.changed, dict(found.left)) == (1, {})
    assert kinds(graph) == ["Reshape", "Gather", "Mul", "Mul", "Add", "Reshape", "Relu"]
    assert rotary_embedding.check(graph, PREPROCESSING) == rotary_embedding.NOTHING


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (WHOLE.replace("(negative, left)", "(left, negative)"), rotary_embedding.NO_HALVES),
        (WHOLE.replace("(swapped, sine)", "(swapped, patches)"), rotary_embedding.NO_TABLES),
        (WHOLE.replace("(swapped, sine)", "(swapped, heads)"), rotary_embedding.NO_TABLES),
        (WHOLE.replace("(patches) negative", "(prefix) negative"), rotary_embedding.NO_HALVES),
        (WHOLE.replace(CUT, SLICED.replace("(x, zero, three, two)", "(x, zero, two, two)")),
         rotary_embedding.OTHER_TOKENS),
        (WHOLE.replace("joined = Concat<axis = 2>(prefix, rotated)", "other = Relu(prefix) "
         "joined = Concat<axis = 2>(other, rotated)"), rotary_embedding.OTHER_TOKENS),
        (WHOLE.replace("(prefix, rotated)", "(rotated, prefix)"), rotary_embedding.NOTHING),
        (WHOLE.replace("Add(a, b)", "Sub(a, b)"), rotary_embedding.NOTHING),
    ],
)  # fmt: skip
def test_other_rotations_stay(body: str, reason: str) -> None:
    assert rotary_embedding.check(model(body), PREPROCESSING) == reason
