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
from layers import SIDE, WIDTH, answers, weights

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.bias_correction import add_missing_biases
from vitedge.calib.quantization.layernorm_equalization import (
    Equalization,
    ReadNorm,
    best_equalization,
    equalizations,
    fold_equalization,
    norm_behind,
    read_norm,
)
from vitedge.calib.quantization.validation_rows import ValidationRows
from vitedge.graph.layers import Layer
from vitedge.metrics import sqnr_db


@dataclass(frozen=True)
class Read:
    """A value that layers read, and all layers of the graph."""

    model: ir.Model
    value: ir.Value
    layers: tuple[Layer, ...]

    def norm(self) -> ReadNorm | None:
        found = norm_behind(self.value)
        return None if found is None else read_norm(self.model.graph, found, self.layers)

    def equalize(self, equalization: Equalization) -> Any:
        """The graph with the equalization folded in."""
        norm = self.norm()
        assert norm is not None
        fold_equalization(self.model, norm, equalization)
        return ir.to_proto(self.model)


def read(graph: Any, name: str) -> Read:
    model = ir.from_proto(graph)
    layers = add_missing_biases(model)
    return Read(model, next(layer.data for layer in layers if layer.data.name == name), layers)


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
        "never = Constant<value = bool {0}>() "
        "m = If (never) <then_branch = yes () => (float[1,16,12] y) { y = Neg(n) }, "
        "else_branch = no () => (float[1,16,12] z) { z = Identity(x) }>",
    ],
)
def test_a_reader_that_is_no_layer_forbids_it(extra: str) -> None:
    assert read(normed(extra=extra), "n").norm() is None


def test_a_reader_that_is_not_among_the_layers_forbids_it() -> None:
    found = read(normed(), "n")
    assert found.norm() is not None
    assert replace(found, layers=found.layers[:-1]).norm() is None


WINDOWS = "to_windows = Reshape(image, windowed) turned = Transpose<perm=[0,1,3,2,4,5]>(to_windows)"
ROLL = "front = Slice(tokens, one, end, one) back = Slice(tokens, zero, one, one) image = Concat<axis=1>(front, back)"
MOVES = {
    "windows": f"image = Identity(tokens) {WINDOWS} read = Reshape(turned, as_rows)",
    "shifted windows": f"{ROLL} {WINDOWS} read = Reshape(turned, as_rows)",
    "padded windows": "padded = Pad(tokens, pads) read = Reshape(padded, as_rows)",
    "merged patches": f"image = Identity(tokens) {WINDOWS} read = Reshape(turned, merged)",
}


def moved(move: str, *, seed: int = 0) -> Any:
    """A LayerNormalization that a layer reads behind operators that copy, and a convolution with a stride reads."""
    columns = 4 * WIDTH if move == "merged patches" else WIDTH
    body = (
        "n = LayerNormalization<axis=-1>(x, gamma, beta) tokens = Reshape(n, grid) "
        f"{MOVES[move]} a = MatMul(read, wa) "
        "planes = Transpose<perm=[0,3,1,2]>(tokens) reduced = Conv<kernel_shape=[2,2], strides=[2,2]>(planes, wc) "
        "total = ReduceSum<keepdims=0>(a) sums = ReduceSum<keepdims=0>(reduced, places) logits = Add(sums, total)"
    )
    generator = np.random.default_rng(seed)
    shapes = {
        "grid": [1, SIDE, SIDE, WIDTH],
        "windowed": [1, 2, 2, 2, 2, WIDTH],
        "as_rows": [-1, WIDTH],
        "merged": [4, 4 * WIDTH],
        "pads": [0, 0, 0, 0, 0, 2, 2, 0],
        "places": [2, 3],
        "zero": [0],
        "one": [1],
        "end": [99],
    }
    return graphs.model(
        body,
        gamma=generator.uniform(0.2, 5, WIDTH),
        beta=generator.standard_normal(WIDTH),
        wa=weights(columns, 5, seed=seed),
        wc=generator.standard_normal((3, WIDTH, 2, 2)),
        **{name: np.array(values) for name, values in shapes.items()},
    )


@pytest.mark.parametrize("move", MOVES)
def test_folding_changes_nothing_behind_operators_that_copy(move: str) -> None:
    graph, generator = moved(move), np.random.default_rng(1)
    norm = read(graph, "read").norm()
    assert norm is not None
    assert norm.shiftable == (move != "padded windows")
    shift = generator.standard_normal(WIDTH) * norm.shiftable
    equalized = read(graph, "read").equalize(Equalization(shift, 10 ** generator.uniform(-1, 1, WIDTH)))
    (before,), (after,) = answers(graph, graphs.frames()), answers(equalized, graphs.frames())
    assert sqnr_db(before, after) > 90


@pytest.mark.parametrize("move", MOVES)
def test_the_copies_are_equalized_where_they_are(move: str) -> None:
    graph, generator = moved(move), np.random.default_rng(2)
    norm = read(graph, "read").norm()
    assert norm is not None
    equalization = Equalization(generator.standard_normal(WIDTH) * norm.shiftable, generator.uniform(0.5, 2, WIDTH))
    for value, channels in norm.values.items():
        name = str(value.name)
        (before,) = answers(graph, graphs.frames(1), [name])
        (after,) = answers(read(graph, "read").equalize(equalization), graphs.frames(1), [name])
        copies = equalization.of_copies(before.reshape(channels.shape), channels)
        np.testing.assert_allclose(copies, after.reshape(channels.shape), atol=1e-4)


def test_other_producers_are_left_alone() -> None:
    assert read(graphs.block(), "gelu0").norm() is None
    assert read(graphs.block(), "norm0").norm() is not None


def test_uneven_channels_are_equalized() -> None:
    generator = np.random.default_rng(0)
    sizes = 10.0 ** np.linspace(-1, 1, WIDTH)
    rows = (generator.standard_normal((500, WIDTH)) * sizes + 3 * sizes).astype(np.float32)
    weight = generator.standard_normal((8, WIDTH)) / sizes
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    seen = ValidationRows(rows, np.ones(len(rows)), low, high)
    best = best_equalization(seen, low, high, weight, Scheme.ASYMMETRIC).equalization
    plain, *_ = equalizations(low, high, weight)
    exact = rows @ weight.T

    def error(each: Equalization, by: Any) -> float:
        outputs = by(each(rows)) @ (weight * each.scale).T + weight @ each.shift
        return float(np.square(outputs - exact).sum())

    assert error(best, best.quantizer(low, high, Scheme.ASYMMETRIC)) < 0.05 * error(
        plain, plain.quantizer(low, high, Scheme.ASYMMETRIC)
    )


def test_the_range_has_room_where_other_images_exceed_it() -> None:
    generator = np.random.default_rng(0)
    rows, weight = generator.standard_normal((500, WIDTH)).astype(np.float32), generator.standard_normal((8, WIDTH))
    low, high = rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)
    counts, scheme = np.ones(len(rows)), Scheme.ASYMMETRIC
    seen, exceeded = (ValidationRows(rows, counts, part * low, part * high) for part in (1.0, 0.8))
    assert best_equalization(seen, low, high, weight, scheme).equalization.margin == 1
    best = best_equalization(exceeded, low, high, weight, scheme).equalization
    assert 1.1 < best.margin < 1.4
    narrow = replace(best, margin=1.0).quantizer(low, high, scheme).scale
    assert best.quantizer(low, high, scheme).scale == pytest.approx(best.margin * narrow)
    assert best.of(np.arange(3)).margin == best.margin
    room = [best.with_room(images).margin / best.margin for images in (1, 8, 300)]
    assert room == pytest.approx([1.5, 1.25, 1.0067], abs=1e-4)


def test_dead_channels_and_weights_do_no_harm() -> None:
    low, high, weight = np.zeros(4), np.array([1.0, 0, 2, 0]), np.array([[1.0, 2, 0, 0]])
    for each in equalizations(low, high, weight):
        assert np.isfinite(each.scale).all()
        assert (each.scale > 0).all()
