"""Rounding with feedback: exact where nothing is correlated, better than rounding each weight by itself where it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import round_weights, weight_scales
from vitedge.calib.quantization.gptq import gptq_round


def correlated_rows(seed: int, channels: int, rank: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((256, rank)) @ generator.standard_normal((rank, channels))
    return mixed + 0.05 * generator.standard_normal((256, channels))


@given(seed=st.integers(0, 99), out=st.integers(1, 5), channels=st.integers(1, 8))
def test_without_correlation_it_rounds_to_nearest(seed: int, out: int, channels: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((out, channels))
    scales = weight_scales(weight)
    gram = np.diag(generator.uniform(0.5, 2, channels))
    np.testing.assert_array_equal(gptq_round(weight, scales, gram), round_weights(weight, scales))


def test_two_equal_inputs_share_their_rounding_by_hand() -> None:
    """0.4 and 0.4 of one and the same input are 0.8: one of them becomes 1, the other 0."""
    gram = np.ones((2, 2))
    levels = gptq_round(np.array([[0.4, 0.4]]), np.ones(1, np.float32), gram)
    assert sorted(levels[0].tolist()) == [0, 1]


@settings(max_examples=25)
@given(seed=st.integers(0, 99))
def test_the_output_is_closer_than_with_rounding_to_nearest(seed: int) -> None:
    rows = correlated_rows(seed, channels=24, rank=4)
    weight = np.random.default_rng(seed).standard_normal((12, 24))
    scales = weight_scales(weight)
    errors = [
        np.square(rows @ (levels * scales[:, None] - weight).T).sum()
        for levels in (gptq_round(weight, scales, rows.T @ rows), round_weights(weight, scales))
    ]
    assert errors[0] < errors[1]


def test_inputs_that_never_vary() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4))
    scales = weight_scales(weight)
    np.testing.assert_array_equal(gptq_round(weight, scales, np.zeros((4, 4))), round_weights(weight, scales))
