"""What float16 holds, and what becomes of the scales of quantizers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.converters.tensorrt.halves import half_scales, holds, holds_scales, rescaled


@pytest.mark.parametrize(
    ("values", "held"),
    [([0.5, -0.25, 1000.0], True), ([70_000.0], False), ([1e-12], False), ([0.0, 0.0], True), ([-np.inf], True)],
    ids=["usual", "too large", "vanishes", "zeros", "infinite"],
)
def test_which_constants_float16_holds(values: list[float], held: bool) -> None:
    assert holds(np.array(values, np.float32)) == held


@given(st.floats(1e-9, 500.0))
def test_scales_stay_positive_and_saturate_nothing(scale: float) -> None:
    (half,) = half_scales(np.array([scale], np.float32)).astype(np.float64)
    assert half > 0
    assert half >= np.float32(scale) * (1 - 2**-10)
    assert abs(half - scale) <= max(scale * 2**-10, 2**-24)


def test_usual_scales_move_no_level() -> None:
    generator = np.random.default_rng(0)
    scales = generator.uniform(1e-4, 1e-2, 64).astype(np.float32)
    levels = generator.integers(-127, 128, (64, 9)).astype(np.int8)
    np.testing.assert_array_equal(rescaled(levels, scales, half_scales(scales), 0), levels)


def test_weights_under_tiny_scales_keep_their_values() -> None:
    scales = np.array([1.1e-6, 2.3e-7], np.float32)
    levels = np.array([[127, -127, 40], [127, -100, 3]], np.int8).T
    half = half_scales(scales)
    moved = rescaled(levels, scales, half, 1)
    assert (moved != levels).any()
    np.testing.assert_allclose(moved * half.astype(np.float64), levels * scales, atol=float(half.max()) / 2)


def test_which_scales_float16_holds() -> None:
    assert holds_scales(np.array([1e-3, 1e-8], np.float32))  # a dead channel does not count
    assert not holds_scales(np.array([1e-7], np.float32))
    assert not holds_scales(np.array([1e5], np.float32))
