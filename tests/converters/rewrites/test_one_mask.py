"""Two constants that are added to the scores of attention."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten

from vitedge.converters.rewrites import one_mask
from vitedge.converters.rewrites.apply import is_exact

CONSTANTS = {
    "heads": random(1, 2, 5, 5), "masks": random(1, 3, 1, 5, 5, seed=1), "flat": random(3, 1, 5, 5, seed=1),
    "small": random(1, 1, 5, 5), "wide": random(3, 2, 5, 5),
    "windows": np.asarray([1, 3, 2, 5, 5]), "back": np.asarray([3, 2, 5, 5]),
}  # fmt: skip
SWIN = "a = Add(x, heads) w = Reshape(a, windows) b = Add(w, masks) s = Reshape(b, back) y = Softmax<axis = -1>(s)"


def model(body: str, shape: tuple[int, ...] = (3, 2, 5, 5)) -> graphs.ir.Model:
    return graphs.model(shape, body, **CONSTANTS)


@pytest.mark.parametrize(
    ("body", "shape", "mask"),
    [
        (SWIN, (3, 2, 5, 5), (3, 2, 5, 5)),
        ("a = Add(heads, x) b = Add(a, flat) y = Softmax<axis = -1>(b)", (3, 2, 5, 5), (3, 2, 5, 5)),
        ("a = Add(x, heads) b = Add(small, a) y = Softmax<axis = -1>(b)", (3, 2, 5, 5), (1, 2, 5, 5)),
    ],
)
def test_their_sum_is_added(body: str, shape: tuple[int, ...], mask: tuple[int, ...]) -> None:
    graph = model(body, shape)
    assert one_mask.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(one_mask, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph).count("Add") == 1
    (merged,) = (each for name, each in graph.graph.initializers.items() if name.endswith("_mask"))
    assert tuple(merged.shape or ()) == mask
    assert one_mask.check(graph, PREPROCESSING) == "no scores have two constants added to them"


def test_a_constant_that_two_blocks_share_stays_for_the_other() -> None:
    graph = model(f"{SWIN.replace('y =', 'z =')} c = Add(z, heads) y = Softmax<axis = -1>(c)")
    _, difference = rewritten(one_mask, graph)
    assert is_exact(difference)
    assert "heads" in graph.graph.initializers


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        ("a = Add(x, heads) b = Add(a, wide) y = Softmax<axis = -1>(b)", (1, 2, 5, 5), one_mask.NO_SHAPE),
        ("a = Add(x, heads) b = Add(a, flat) s = Softmax<axis = -1>(b) y = Add(s, a)", (3, 2, 5, 5),
         "no scores have two constants added to them"),
        ("a = Add(x, heads) b = Add(a, x) y = Softmax<axis = -1>(b)", (3, 2, 5, 5),
         "no scores have two constants added to them"),
        ("a = Add(x, heads) y = Add(a, flat)", (3, 2, 5, 5), "no scores have two constants added to them"),
    ],
)  # fmt: skip
def test_what_stays(body: str, shape: tuple[int, ...], reason: str) -> None:
    assert one_mask.check(model(body, shape), PREPROCESSING) == reason


def test_a_mask_of_many_windows_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_mask, "LARGEST", 3 * 2 * 5 * 5 - 1)
    assert one_mask.check(model(SWIN), PREPROCESSING) == one_mask.TOO_LARGE
