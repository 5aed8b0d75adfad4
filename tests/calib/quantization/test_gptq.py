"""Rounding with feedback: exact where nothing is correlated, better than rounding each weight by itself where it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.calib.quantization import gptq
from vitedge.calib.quantization.affine import dequantized, round_weights, weight_scales
from vitedge.calib.quantization.gptq import gptq_round
from vitedge.calib.quantization.grid import FLOAT8, INT8, Grid


def correlated_rows(seed: int, channels: int, rank: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((256, rank)) @ generator.standard_normal((rank, channels))
    return mixed + 0.05 * generator.standard_normal((256, channels))


@given(seed=st.integers(0, 99), out=st.integers(1, 5), channels=st.integers(1, 8))
def test_without_correlation_it_rounds_to_nearest(seed: int, out: int, channels: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((out, channels))
    scales = weight_scales(weight, INT8)
    gram = np.diag(generator.uniform(0.5, 2, channels))
    np.testing.assert_array_equal(gptq_round(weight, scales, gram, INT8), round_weights(weight, scales, INT8))


def test_two_equal_inputs_share_their_rounding_by_hand() -> None:
    """0.4 and 0.4 of one and the same input are 0.8: one of them becomes 1, the other 0."""
    gram = np.ones((2, 2))
    levels = gptq_round(np.array([[0.4, 0.4]]), np.ones(1, np.float32), gram, INT8)
    assert sorted(levels[0].tolist()) == [0, 1]


@settings(max_examples=25)
@pytest.mark.parametrize("grid", [INT8, FLOAT8])
@given(seed=st.integers(0, 99))
def test_the_output_is_closer_than_with_rounding_to_nearest(grid: Grid, seed: int) -> None:
    rows = correlated_rows(seed, channels=24, rank=4)
    weight = np.random.default_rng(seed).standard_normal((12, 24))
    scales = weight_scales(weight, grid)
    errors = [
        np.square(rows @ (dequantized(levels, scales) - weight).T).sum()
        for levels in (gptq_round(weight, scales, rows.T @ rows, grid), round_weights(weight, scales, grid))
    ]
    assert errors[0] < errors[1]


def test_inputs_that_never_vary() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 4))
    scales = weight_scales(weight, INT8)
    np.testing.assert_array_equal(
        gptq_round(weight, scales, np.zeros((4, 4)), INT8), round_weights(weight, scales, INT8)
    )


@pytest.mark.parametrize("channels", [5, 300])
def test_the_triangular_factor_is_the_one_of_the_damped_inverse(channels: int) -> None:
    grams = np.stack([rows.T @ rows for rows in (correlated_rows(seed, channels, rank=3) for seed in range(2))])
    energy = np.diagonal(grams, axis1=-2, axis2=-1).mean(axis=-1)[:, np.newaxis, np.newaxis]
    damped = grams + gptq.DAMPING * energy * np.eye(channels)
    expected = np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(-1, -2)
    np.testing.assert_allclose(gptq._inverse_factor(grams), expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_levels_rounded_on_the_grid_of_float8_beat_levels_of_int8_rounded_again() -> None:
    """Planted: inputs that are nearly equal, so that the errors of weights can cancel, on the grid that stores them."""
    rows = correlated_rows(0, channels=24, rank=2)
    weight, gram = np.random.default_rng(0).standard_normal((12, 24)), rows.T @ rows
    integers, scales = weight_scales(weight, INT8), weight_scales(weight, FLOAT8)
    again = dequantized(gptq_round(weight, integers, gram, INT8), integers).astype(np.float64)
    errors = [
        np.square(rows @ (dequantized(levels, scales) - weight).T).sum()
        for levels in (gptq_round(weight, scales, gram, FLOAT8), round_weights(again, scales, FLOAT8))
    ]
    assert errors[0] < errors[1] / 10


@pytest.mark.parametrize("grid", [INT8, FLOAT8])
def test_groups_round_as_each_of_them_alone_and_blocks_as_single_channels(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(4)
    weight, rows = (
        random.standard_normal((3, 6, 20)),
        random.standard_normal((3, 50, 20)) * np.exp(random.standard_normal(20)),
    )
    gram, scales = rows.transpose(0, 2, 1) @ rows, grid.scales(np.abs(weight).max(axis=-1))
    monkeypatch.setattr(gptq, "BLOCK", 4)
    levels = gptq_round(weight, scales, gram, grid)
    monkeypatch.setattr(gptq, "BLOCK", 32)
    for group in range(3):
        np.testing.assert_array_equal(levels[group], gptq_round(weight[group], scales[group], gram[group], grid))
    assert (levels != grid.nearest(weight / scales[..., None]).astype(grid.dtype)).any()
