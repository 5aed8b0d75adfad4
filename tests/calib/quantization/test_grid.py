"""The grids of 8 bits: float8 against ml_dtypes and against hand-computed levels, and laws of every grid."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.calib.quantization.grid import FLOAT8, INT8, UINT8, Grid

GRIDS = (INT8, UINT8, FLOAT8)
BYTES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
LEVELS = np.sort(BYTES[np.isfinite(BYTES)])
"""All finite levels of float8 (e4m3fn), both zeros among them."""


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As ml_dtypes rounds to float8, which is NaN beyond the largest level."""
    return np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_float8_number_is_a_level(dtype: type) -> None:
    assert len(LEVELS) == 254
    assert (FLOAT8.lowest, FLOAT8.highest) == (LEVELS[0], LEVELS[-1])
    found = FLOAT8.nearest(LEVELS.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, LEVELS)


def test_the_middle_between_two_float8_levels_goes_to_the_even_one() -> None:
    middles = ((LEVELS[:-1].astype(np.float64) + LEVELS[1:]) / 2).astype(np.float32)
    np.testing.assert_array_equal(FLOAT8.nearest(middles), rounded(middles))
    assert FLOAT8.nearest(np.array([17.0, 19.0, 1.0625, 1.1875])).tolist() == [16, 20, 1, 1.25]


@given(st.lists(st.floats(-600, 600, width=32), min_size=1), st.integers(-12, 0))
def test_float8_rounds_as_ml_dtypes_does(values: list[float], exponent: int) -> None:
    levels = (np.array(values, np.float32) * np.float32(2.0**exponent)).astype(np.float32)
    np.testing.assert_array_equal(FLOAT8.nearest(levels), rounded(levels))


def test_float8_saturates_and_has_steps_of_2_to_the_minus_9_around_zero() -> None:
    assert FLOAT8.nearest(np.array([449.0, 1e9, np.inf, -470.0])).tolist() == [448, 448, 448, -448]
    step = 2.0**-9
    found = FLOAT8.nearest(np.array([0.0, 0.4, 0.5, 0.6, 1.5, 7.2, -0.6]) * step)
    assert (found / step).tolist() == [0, 0, 0, 1, 2, 7, -1]


@pytest.mark.parametrize("grid", GRIDS)
@given(seed=st.integers(0, 99))
def test_no_level_is_nearer_and_a_graph_stores_it_exactly(grid: Grid, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(1.2 * grid.lowest, 1.2 * grid.highest, 100)
    found = grid.nearest(values)
    levels = LEVELS if grid is FLOAT8 else np.arange(grid.lowest, grid.highest + 1)
    np.testing.assert_allclose(np.abs(found - values), np.abs(values[:, None] - levels).min(axis=1), atol=1e-9)
    np.testing.assert_array_equal(found.astype(grid.dtype).astype(np.float64), found)


def test_a_zero_point_is_added_before_the_ends() -> None:
    assert UINT8.nearest(np.array([-60.0, -49.6, 0.4, 300.0]), 50).tolist() == [0, 0, 50, 255]


@pytest.mark.parametrize("grid", GRIDS)
def test_scales_bring_peaks_to_the_largest_level_and_stay_above_zero(grid: Grid) -> None:
    peaks = np.array([0.0, 1e-30, 1e-9, 0.3, 7.0, 1e5, 1e9])
    scales = grid.scales(peaks)
    assert scales.dtype == np.float32
    assert scales[0] == 1
    assert np.all(scales > 0)
    assert np.all(peaks / scales <= grid.highest * (1 + 1e-6))
    np.testing.assert_allclose(peaks[3:] / scales[3:], grid.highest, rtol=2e-3)


def test_scales_of_float8_are_numbers_of_float16_wherever_it_holds_them() -> None:
    scales = FLOAT8.scales(np.array([1e-12, 1e-3, 0.3, 7.0, 448 * 65000.0]))
    np.testing.assert_array_equal(scales, scales.astype(np.float16))
    assert FLOAT8.scales(np.array([1e9]))[0] == pytest.approx(1e9 / 448)
