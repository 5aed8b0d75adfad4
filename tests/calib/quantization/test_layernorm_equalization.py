"""Equalization: exact on any graph, never where a reader would be missed, worth it where channels differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import WIDTH, answers, weights

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.bias_correction import add_missing_biases
from vitedge.calib.quantization.layernorm_equalization import (
    Equalization,
    best_equalization,
    equalizations,
    fold_equalization,
    layernorm_behind,
)
from vitedge.graph.layers import Layer
from vitedge.metrics import sqnr_db


@dataclass(frozen=True)
class Read:
    """A value, and the layers that read it."""

    model: ir.Model
    value: ir.Value
    readers: tuple[Layer, ...]

    def norm(self) -> ir.Node | None:
        return layernorm_behind(self.value, self.readers)

    def equalize(self, equalization: Equalization) -> Any:
        """The graph with the equalization folded in."""
        norm = self.norm()
        assert norm is not None
        fold_equalization(self.model, norm, self.readers, equalization)
        return ir.to_proto(self.model)


def read(graph: Any, name: str) -> Read:
    model = ir.from_proto(graph)
    readers = tuple(layer for layer in add_missing_biases(model) if layer.data.name == name)
    return Read(model, readers[0].data, readers)


def normed(*, beta: bool = True, extra: str = "", seed: int = 0) -> Any:
    """A LayerNormalization that three layers read."""
    affine = "gamma, beta" if beta else "gamma"
    body = (
        f"n = LayerNormalization<axis=-1>(x, {affine}) a = MatMul(n, wa) b = MatMul(n, wb) biased = Add(b, offset) "
        f"c = MatMul(n, wc) ab = Add(a, biased) {extra} logits = Add(ab, c)"
    )
    generator = np.random.default_rng(seed)
    constants = {name: weights(WIDTH, WIDTH, seed=seed + index) for index, name in enumerate(("wa", "wb", "wc"))}
    if beta:
        constants["beta"] = generator.standard_normal(WIDTH)
    return graphs.model(body, gamma=generator.uniform(0.2, 5, WIDTH), offset=weights(WIDTH), **constants)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), beta=st.booleans(), spread=st.floats(0, 3))
def test_folding_changes_nothing(seed: int, beta: bool, spread: float) -> None:
    graph, generator = normed(beta=beta, seed=seed), np.random.default_rng(seed)
    equalization = Equalization(generator.standard_normal(WIDTH), 10 ** generator.uniform(-spread, spread, WIDTH))
    equalized = read(graph, "n").equalize(equalization)
    (before,), (after,) = answers(graph, graphs.frames()), answers(equalized, graphs.frames())
    assert sqnr_db(before, after) > 90


def test_the_normalization_makes_what_the_equalization_says() -> None:
    graph = normed()
    equalization = Equalization(np.linspace(-1, 1, WIDTH), np.linspace(0.5, 2, WIDTH))
    equalized = read(graph, "n").equalize(equalization)
    (before,), (after,) = (answers(each, graphs.frames(), ["n"]) for each in (graph, equalized))
    np.testing.assert_allclose(after, equalization(before), atol=1e-4)


@pytest.mark.parametrize(
    "extra",
    [
        "m = Relu(n)",
        "m = Identity(n)",
        "never = Constant<value = bool {0}>() "
        "m = If (never) <then_branch = yes () => (float[1,16,12] y) { y = Neg(n) }, "
        "else_branch = no () => (float[1,16,12] z) { z = Identity(x) }>",
    ],
)
def test_a_reader_that_is_no_layer_forbids_it(extra: str) -> None:
    assert read(normed(extra=extra), "n").norm() is None


def test_a_reader_that_stays_float_forbids_it() -> None:
    found = read(normed(), "n")
    assert replace(found, readers=found.readers[:2]).norm() is None


def test_other_producers_are_left_alone() -> None:
    assert read(graphs.block(), "gelu0").norm() is None
    assert read(graphs.block(), "norm0").norm() is not None


def test_uneven_channels_are_equalized() -> None:
    generator = np.random.default_rng(0)
    sizes = 10.0 ** np.linspace(-1, 1, WIDTH)
    rows = (generator.standard_normal((500, WIDTH)) * sizes + 3 * sizes).astype(np.float32)
    weight = generator.standard_normal((8, WIDTH)) / sizes
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    best, quantizer = best_equalization(rows, low, high, weight, Scheme.ASYMMETRIC)
    plain, *_ = equalizations(low, high, weight)
    exact = rows @ weight.T

    def error(each: Equalization, by: Any) -> float:
        outputs = by(each(rows)) @ (weight * each.scale).T + weight @ each.shift
        return float(np.square(outputs - exact).sum())

    assert error(best, quantizer) < 0.05 * error(plain, plain.quantizer(low, high, Scheme.ASYMMETRIC))


def test_dead_channels_and_weights_do_no_harm() -> None:
    low, high, weight = np.zeros(4), np.array([1.0, 0, 2, 0]), np.array([[1.0, 2, 0, 0]])
    for each in equalizations(low, high, weight):
        assert np.isfinite(each.scale).all()
        assert (each.scale > 0).all()
