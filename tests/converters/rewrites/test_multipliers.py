"""A multiplication by constants goes into the layer before it, whatever the layer is, or is refused with the reason."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import pytest
from graphs import kinds
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.converters.rewrites import multipliers
from vitedge.converters.rewrites.apply import is_exact
from vitedge.converters.rewrites.multipliers import Fold, fold, multiplier_of
from vitedge.metrics import Parity, parity

LINEAR = "product = MatMul(x, w)\nmade = Add(product, b)"


def scaled(body: str, gamma: Any, shape: tuple[int, ...] = (1, 5, 8), **constants: Any) -> graphs.ir.Model:
    constants = {
        "w": graphs.random(8, 8),
        "b": graphs.random(8, seed=1),
        "gamma": np.asarray(gamma, np.float32),
        **constants,
    }
    return graphs.model(shape, body, **constants)


def found(graph: graphs.ir.Model) -> Fold | str:
    """What becomes of the one multiplication."""
    (multiplier,) = filter(None, map(multiplier_of, graph.graph))
    return fold(graph.graph, multiplier)


def folded(graph: graphs.ir.Model) -> Parity:
    """Fold it in place; how far the outputs moved."""
    before, place = graphs.outputs(graph), found(graph)
    assert isinstance(place, Fold)
    place.apply(graph)
    return parity(before, graphs.outputs(graph))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), order=st.sampled_from(["made, gamma", "gamma, made"]), zero=st.booleans())
def test_a_factor_for_each_channel(seed: int, order: str, zero: bool) -> None:
    gamma = graphs.random(8, seed=seed)
    gamma[0] = 0 if zero else gamma[0]
    graph = scaled(f"{LINEAR}\nscaled = Mul({order})\ny = Add(x, scaled)", gamma)
    assert is_exact(folded(graph))
    assert kinds(graph) == ["MatMul", "Add", "Add"]


@pytest.mark.parametrize(
    ("body", "gamma", "shape", "weight"),
    [
        ("made = Conv(x, w, b)\ny = Mul(made, gamma)", graphs.random(1, 8, 1, 1), (1, 8, 4, 4), (8, 8, 1, 1)),
        (
            "made = Conv<group = 8, pads = [1, 1, 1, 1]>(x, w, b)\ny = Mul(made, gamma)",
            graphs.random(8, 1, 1),
            (1, 8, 4, 4),
            (8, 1, 3, 3),
        ),
        ("made = Conv(x, w)\ny = Div(made, gamma)", 1 + graphs.random(8, 1, 1) ** 2, (1, 8, 4, 4), (8, 8, 1, 1)),
        ("made = Gemm<transB = 1>(x, w, b)\ny = Mul(made, gamma)", graphs.random(8), (3, 8), (8, 8)),
        ("made = Gemm(x, w)\ny = Mul(made, gamma)", np.float32(2).reshape(()), (3, 8), (8, 8)),
        (
            f"{LINEAR}\nmoved = Transpose<perm = [0, 2, 1]>(made)\ny = Mul(moved, gamma)",
            graphs.random(8, 1),
            (1, 5, 8),
            (8, 8),
        ),
        ("made = LayerNormalization(x, w, b)\ny = Mul(made, gamma)", graphs.random(8), (1, 5, 8), (8,)),
    ],
)
def test_every_layer(body: str, gamma: Any, shape: tuple[int, ...], weight: tuple[int, ...]) -> None:
    graph = scaled(body, gamma, shape, w=graphs.random(*weight))
    assert is_exact(folded(graph))
    assert not {"Mul", "Div"} & {*kinds(graph)}


@pytest.mark.parametrize(
    ("body", "gamma", "reason"),
    [
        ("made = Relu(x)\ny = Mul(made, gamma)", 2, "Relu makes what is multiplied, not a layer with constant weights"),
        ("y = Mul(x, gamma)", 2, "an input makes what is multiplied, not a layer with constant weights"),
        (f"{LINEAR}\nscaled = Mul(made, gamma)\ny = Add(made, scaled)", 2, "Add reads the same channels without it"),
        (
            f"{LINEAR}\njoined = Concat<axis = 1>(made, x)\ny = Mul(joined, gamma)",
            2,
            "other values join before the multiplication",
        ),
        (f"{LINEAR}\ny = Mul(made, gamma)", graphs.random(5, 1), "the factors differ within a channel"),
        (f"{LINEAR}\ny = Mul(made, gamma)", graphs.random(2, 1, 1), "the multiplication widens its input"),
    ],
)
def test_refusals(body: str, gamma: Any, reason: str) -> None:
    assert found(scaled(body, gamma)) == reason


def test_a_layer_of_unknown_shape() -> None:
    graph = scaled(f"{LINEAR}\ny = Mul(made, gamma)", 2)
    graphs.forget_shape(graph, "made")
    assert found(graph) == "the shape of what is multiplied is not known"


def test_a_division_by_zero() -> None:
    assert found(scaled(f"{LINEAR}\ny = Div(made, gamma)", 0)) == "it divides by zero"


def test_weights_that_two_layers_share_stay_for_the_other() -> None:
    graph = scaled("one = MatMul(x, w)\nother = MatMul(one, w)\ny = Mul(other, gamma)", graphs.random(8))
    assert is_exact(folded(graph))


def test_without_its_guard_the_fold_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = scaled(f"{LINEAR}\nscaled = Mul(made, gamma)\ny = Add(made, scaled)", 2)
    monkeypatch.setattr(multipliers, "_blocked", lambda reading, others: "")
    assert not is_exact(folded(graph))
