from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.converters.rewrites import layernorm_affine
from vitedge.converters.rewrites.apply import is_exact
from vitedge.graph.layers import Layer

NORM = "n = LayerNormalization(x, gamma, beta)"
LINEAR = "p = MatMul(n, w)\ny = Add(p, b)"
NOWHERE = "no LayerNormalization scales or shifts"
TO_IMAGE = "image = Transpose<perm = [0, 3, 1, 2]>(n)"


def normalized(
    body: str, shape: tuple[int, ...] = (1, 4, 8), seed: int = 0, **constants: graphs.Array
) -> graphs.ir.Model:
    defaults = {"gamma": graphs.random(8, seed=seed), "beta": graphs.random(8, seed=seed + 1)}
    defaults |= {"w": graphs.random(8, 6, seed=seed), "b": graphs.random(6, seed=seed), "v": graphs.random(6, 8)}
    return graphs.model(shape, body, **{**defaults, **constants})


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    reader=st.sampled_from(
        [
            LINEAR,
            "p = MatMul(n, w)\nq = Add(b, p)\np2 = MatMul(n, w)\nq2 = Add(p2, b)\ny = Mul(q, q2)",
            "one = Slice(n, first, second, second)\nflat = Squeeze(one, second)\ny = Gemm<transB = 1>(flat, v, b)",
            "flat = Reshape(n, tokens)\ny = Gemm(flat, w)",
        ]
    ),
)
def test_readers(seed: int, reader: str) -> None:
    graph = normalized(
        f"{NORM}\n{reader}", seed=seed, first=np.array([0]), second=np.array([1]), tokens=np.array([4, 8])
    )
    assert layernorm_affine.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(layernorm_affine, graph)
    assert places.changed == 1
    assert is_exact(difference)
    (norm,) = (node for node in graph.graph if node.op_type == "LayerNormalization")
    assert len(norm.inputs) == 2
    assert (norm.inputs[1].const_value.numpy() == 1).all()
    assert layernorm_affine.check(graph, PREPROCESSING) == NOWHERE


def test_one_that_scales_all_channels_alike_does_not_keep_the_others_from_it() -> None:
    alike = "m = LayerNormalization(x, two)\nr = MatMul(m, w)\ns = Add(r, b)"
    body = f"{NORM}\np = MatMul(n, w)\nq = Add(p, b)\n{alike}\ny = Add(q, s)"
    graph = normalized(body, two=np.array([2.0]))
    assert layernorm_affine.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(layernorm_affine, graph)
    assert places.changed == 1
    assert is_exact(difference)


@pytest.mark.parametrize(
    ("conv", "weight"),
    [
        ("", (6, 8, 1, 1)),
        ("<group = 2>", (6, 4, 2, 2)),
        ("<group = 8>", (8, 1, 2, 2)),
        ("<strides = [2, 2]>", (6, 8, 2, 2)),
    ],
)
def test_convolutions_that_do_not_pad(conv: str, weight: tuple[int, ...]) -> None:
    graph = normalized(f"{NORM}\n{TO_IMAGE}\ny = Conv{conv}(image, w)", (1, 4, 4, 8), w=graphs.random(*weight))
    places, difference = rewritten(layernorm_affine, graph)
    assert places.changed == 1
    assert is_exact(difference)


PADDED = f"{NORM}\n{TO_IMAGE}\ny = Conv<pads = [1, 1, 1, 1]>(image, w)"


def test_a_convolution_that_pads_takes_a_scale_without_a_shift() -> None:
    graph = normalized(PADDED, (1, 4, 4, 8), w=graphs.random(6, 8, 3, 3), beta=np.zeros(8))
    places, difference = rewritten(layernorm_affine, graph)
    assert places.changed == 1
    assert is_exact(difference)


@pytest.mark.parametrize(
    ("body", "shape", "weight", "reason"),
    [
        ("y = Relu(x)", (1, 4, 8), (8, 6), NOWHERE),
        (f"{NORM}\ny = Relu(n)", (1, 4, 8), (8, 6), "Relu reads it, not a layer with constant weights"),
        (f"{NORM}\ny = Identity(n)", (1, 4, 8), (8, 6), "the output reads it, not a layer with constant weights"),
        (f"{NORM}\n{LINEAR}\nz = Add(n, x)", (1, 4, 8), (8, 6), "Add reads it, not a layer with constant weights"),
        (f"{NORM}\ny = MatMul(n, w)", (1, 4, 8), (8, 6), "MatMul reads it and has no bias to take the shift in"),
        (
            f"{NORM}\nt = Transpose<perm = [0, 2, 1]>(n)\np = MatMul(t, w)\ny = Add(p, b)",
            (1, 8, 8),
            (8, 6),
            "a column of MatMul reads several channels",
        ),
        (PADDED, (1, 4, 4, 8), (6, 8, 3, 3), "Conv reads it padded with zeros, which the shift would change"),
        (
            f"{NORM}\nwide = Pad(n, pads)\np = MatMul(wide, w)\ny = Add(p, b)",
            (1, 4, 8),
            (8, 6),
            "MatMul reads it padded with zeros, which the shift would change",
        ),
    ],
)
def test_refusals(body: str, shape: tuple[int, ...], weight: tuple[int, ...], reason: str) -> None:
    graph = normalized(body, shape, w=graphs.random(*weight), pads=np.array([0, 0, 0, 0, 1, 0]))
    assert layernorm_affine.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(layernorm_affine, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


def test_a_normalization_of_unknown_shape() -> None:
    graph = normalized(f"{NORM}\n{LINEAR}")
    graphs.forget_shape(graph, "n")
    assert layernorm_affine.check(graph, PREPROCESSING) == "the shape of its output is not known"


def test_without_its_guard_the_fold_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = normalized(PADDED, (1, 4, 4, 8), w=graphs.random(6, 8, 3, 3))
    monkeypatch.setattr(Layer, "pads", lambda layer: False)
    places, difference = rewritten(layernorm_affine, graph)
    assert places.changed == 1
    assert not is_exact(difference)
