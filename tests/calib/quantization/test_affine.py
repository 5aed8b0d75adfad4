"""The arithmetic of quantizers: against hand-computed levels, and its laws on any range and any values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.grid import FLOAT8, INT8, UINT8

magnitudes = st.floats(2**-10, 2**13, width=32)
schemes = st.sampled_from([Scheme.ASYMMETRIC, Scheme.SYMMETRIC, Scheme.SHIFTED])


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float]:
    low = draw(st.one_of(st.just(0.0), magnitudes.map(lambda each: -each)))
    high = draw(st.one_of(st.just(0.0), magnitudes)) if low else draw(magnitudes)
    return low, high


def covered(quantizer: Quantizer) -> tuple[float, float]:
    ends = np.array([quantizer.grid.lowest - quantizer.zero_point, quantizer.grid.highest - quantizer.zero_point])
    low, high = ends * quantizer.scale + quantizer.shift
    return float(low), float(high)


def within(quantizer: Quantizer, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(*covered(quantizer), 200).astype(np.float32)


def test_asymmetric_levels_by_hand() -> None:
    quantizer = activation_quantizer(-1.0, 4.1, Scheme.ASYMMETRIC)
    assert quantizer == Quantizer(float(np.float32(0.02)), 50, UINT8)
    levels = quantizer.quantize(np.array([-9, -1, -0.011, 0, 0.02, 4.1, 9], np.float32))
    assert levels.dtype == np.uint8
    assert levels.tolist() == [0, 0, 49, 50, 51, 255, 255]
    np.testing.assert_allclose(quantizer.dequantize(levels)[[0, 3, 4, 5]], [-1, 0, 0.02, 4.1], rtol=1e-6)


def test_symmetric_levels_by_hand() -> None:
    quantizer = activation_quantizer(-2.54, 1.0, Scheme.SYMMETRIC)
    assert quantizer == Quantizer(float(np.float32(0.02)), 0, INT8)
    levels = quantizer.quantize(np.array([-9, -2.54, -0.03, 0, 1, 9], np.float32))
    assert levels.dtype == np.int8
    assert levels.tolist() == [-127, -127, -2, 0, 50, 127]


def test_shifted_levels_by_hand() -> None:
    quantizer = activation_quantizer(-1.0, 4.08, Scheme.SHIFTED)
    assert quantizer == Quantizer(float(np.float32(0.02)), 0, INT8, shift=pytest.approx(1.54))
    levels = quantizer.quantize(np.array([-9, -1, -0.011, 0, 0.02, 4.08, 9], np.float32))
    assert levels.dtype == np.int8
    assert levels.tolist() == [-127, -127, -78, -77, -76, 127, 127]
    np.testing.assert_allclose(quantizer.dequantize(levels)[[1, 4, 5]], [-1, 0.02, 4.08], rtol=1e-5)
    assert quantizer.dequantize(levels)[3] == pytest.approx(0, abs=1e-6)


def test_a_range_is_widened_to_hold_zero() -> None:
    assert activation_quantizer(2.0, 5.1, Scheme.ASYMMETRIC).zero_point == 0
    assert covered(activation_quantizer(-5.1, -2.0, Scheme.ASYMMETRIC)) == pytest.approx((-5.1, 0))


def test_a_tensor_that_is_always_zero_stays_so() -> None:
    for scheme in Scheme:
        quantizer = activation_quantizer(0.0, 0.0, scheme)
        assert quantizer.scale == 1.0
        assert not quantizer(np.zeros(3, np.float32)).any()


@given(limits=ranges(), scheme=schemes, seed=st.integers(0, 99))
def test_the_error_is_at_most_half_a_step(limits: tuple[float, float], scheme: Scheme, seed: int) -> None:
    quantizer = activation_quantizer(*limits, scheme)
    values = within(quantizer, seed)
    assert np.abs(quantizer(values) - values).max() <= quantizer.scale / 2 * (1 + 1e-4)


@given(limits=ranges(), scheme=schemes, seed=st.integers(0, 99))
def test_twice_is_once_zero_is_exact_and_order_is_kept(limits: tuple[float, float], scheme: Scheme, seed: int) -> None:
    quantizer = activation_quantizer(*limits, scheme)
    values = np.sort(2 * within(quantizer, seed))  # half of them saturate
    once = quantizer(values)
    np.testing.assert_array_equal(quantizer(once), once)
    assert np.all(np.diff(once) >= 0)
    assert not quantizer(np.zeros(1, np.float32)).any()


@given(limits=ranges(), scheme=schemes)
def test_the_range_is_covered_to_half_a_step(limits: tuple[float, float], scheme: Scheme) -> None:
    quantizer = activation_quantizer(*limits, scheme)
    low, high = covered(quantizer)
    slack = quantizer.scale * 0.501
    assert low - slack <= limits[0]
    assert limits[1] <= high + slack


def test_weights_by_hand() -> None:
    weight = np.array([[1.27, -0.01, 0.004], [0, 0, 0], [-2.54, 0.041, 0.052]])
    scales = weight_scales(weight, INT8)
    np.testing.assert_allclose(scales, [0.01, 1, 0.02], rtol=1e-6)
    levels = round_weights(weight, scales, INT8)
    assert levels.dtype == np.int8
    assert levels.tolist() == [[127, -1, 0], [0, 0, 0], [-127, 2, 3]]


@given(limits=ranges(), seed=st.integers(0, 99))
def test_the_error_of_float8_is_a_share_of_the_value(limits: tuple[float, float], seed: int) -> None:
    quantizer = activation_quantizer(*limits, Scheme.FLOAT8)
    values = np.random.default_rng(seed).uniform(*limits, 200).astype(np.float32)
    least = quantizer.scale * 2.0**-6  # of a level with four bits
    assert np.all(np.abs(quantizer(values) - values) <= np.maximum(np.abs(values), least) / 16 * (1 + 1e-4))
    np.testing.assert_array_equal(quantizer(quantizer(values)), quantizer(values))


@given(limits=ranges())
def test_float8_has_levels_for_larger_values_than_the_range_holds(limits: tuple[float, float]) -> None:
    quantizer = activation_quantizer(*limits, Scheme.FLOAT8)
    assert (quantizer.zero_point, quantizer.shift) == (0, 0.0)
    assert 448 * quantizer.scale == pytest.approx(4 * max(-limits[0], limits[1]), rel=0.02)


def test_float8_levels_by_hand() -> None:
    quantizer = activation_quantizer(-56.0, 112.0, Scheme.FLOAT8)
    assert quantizer == Quantizer(1.0, 0, FLOAT8)
    levels = quantizer.quantize(np.array([-900, -56, 0.01, 1.07, 17.5, 500], np.float32))
    assert levels.dtype == FLOAT8.dtype
    assert levels.astype(np.float32).tolist() == [-448, -56, 0.009765625, 1.125, 18, 448]
