"""Guards against masks that are not there."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import PREPROCESSING, Array, kinds, model, random, rewritten

from vitedge.converters.rewrites import mask_guards
from vitedge.converters.rewrites.apply import is_exact

GUARD = "p = Softmax<axis = -1>(scores) n = IsNaN(p) a = Where(n, zero, p) y = MatMul(a, x)"
PRODUCT = "xt = Transpose<perm = [0, 2, 1]>(x) scored = MatMul(x, xt)"
ZERO = np.zeros(1)


def guarded(scores: str, **constants: Array) -> list[str]:
    """The operators that are left, after proof that the outputs are the same."""
    graph = model((1, 5, 8), f"{PRODUCT} {scores} {GUARD}", zero=ZERO, **constants)
    assert mask_guards.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(mask_guards, graph)
    assert is_exact(difference)
    assert not places.left
    assert mask_guards.check(graph, PREPROCESSING) == "no attention has a guard or a mask of zeros"
    return kinds(graph)


@pytest.mark.parametrize(
    ("scores", "constants", "kept"),
    [
        ("scores = Mul(scored, s)", {"s": np.full(1, 0.5)}, ["Mul"]),
        ("scores = Add(mask, scored)", {"mask": random(1, 5, 5)}, ["Add"]),
        ("scores = Add(mask, scored)", {"mask": np.zeros((1, 1, 5))}, []),
    ],
)
def test_a_softmax_of_finite_scores_needs_no_guard(scores: str, constants: dict[str, Array], kept: list[str]) -> None:
    assert guarded(scores, **constants) == ["Transpose", "MatMul", *kept, "Softmax", "MatMul"]


@pytest.mark.parametrize(
    ("scores", "constants"),
    [
        ("scores = Add(scored, mask)", {"mask": np.full((1, 5, 5), -np.inf)}),
        ("scores = Mul(scored, s)", {"s": np.full(1, np.inf)}),
        ("h = Log(x) m = ReduceMin(h) scores = Add(scored, m)", {}),
    ],
)
def test_the_guard_stays_where_a_mask_may_hide_every_key(scores: str, constants: dict[str, Array]) -> None:
    graph = model((1, 5, 8), f"{PRODUCT} {scores} {GUARD}", zero=ZERO, **constants)
    assert mask_guards.check(graph, PREPROCESSING) == mask_guards.HIDES


def test_without_its_guard_the_removal_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"mask": np.full((1, 5, 5), -np.inf)}
    graph = model((1, 5, 8), f"{PRODUCT} scores = Add(scored, mask) {GUARD}", zero=ZERO, **hidden)
    monkeypatch.setattr(mask_guards, "_is_finite", lambda scores: True)
    places, difference = rewritten(mask_guards, graph)
    assert places.changed == 1
    assert not is_exact(difference)


def test_another_value_in_the_place_of_nan_stays() -> None:
    graph = model((1, 5, 8), f"{PRODUCT} scores = Mul(scored, s) {GUARD}", zero=np.ones(1), s=np.full(1, 0.5))
    assert mask_guards.check(graph, PREPROCESSING) == "no attention has a guard or a mask of zeros"


def test_zeros_that_widen_the_scores_stay() -> None:
    body = f"{PRODUCT} scores = Add(scored, mask) y = Softmax<axis = -1>(scores)"
    graph = model((1, 5, 8), body, mask=np.zeros((2, 1, 1)))
    assert mask_guards.check(graph, PREPROCESSING) == "no attention has a guard or a mask of zeros"
