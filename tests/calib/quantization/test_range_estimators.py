"""Histograms of bounded size, and each range estimator where its answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitedge.calib.quantization.range_estimators import BINS, Histogram, Range, entropy, min_max, mse, percentile


def histogram(*batches: object) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(np.asarray(batch, np.float32))
    return made


@example(batches=[[1.401298464324817e-45]])
@example(batches=[[-1.401298464324817e-45], [1e6]])
@given(batches=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=8))
def test_every_value_is_counted_in_its_bin_whatever_comes_first(batches: list[list[float]]) -> None:
    made = histogram(*batches)
    values = np.concatenate([np.asarray(each, np.float32) for each in batches])
    assert made.counts.sum() == len(values)
    assert made.counts.shape == (BINS,)
    assert (made.low, made.high) == (min(0.0, values.min()), max(0.0, values.max()))
    if made.width:
        expected = np.floor(values.astype(np.float64) / made.width) + BINS // 2
        np.testing.assert_array_equal(np.flatnonzero(made.counts), np.unique(np.clip(expected, 0, BINS - 1)))


def test_bins_are_at_most_a_512th_of_the_peak() -> None:
    made = histogram([0.001], [700.0])
    assert made.width <= 700 / 512


def test_min_max_is_all_and_holds_zero() -> None:
    assert min_max(histogram([1, 2], [0.5])) == Range(0.0, 2.0)
    assert min_max(histogram([-3, 2])) == Range(-3.0, 2.0)


def test_extremes_are_taken_from_all_values_of_a_large_tensor() -> None:
    values = np.zeros(1 << 18, np.float32)
    values[12345] = 7.0
    assert min_max(histogram(values)).high == 7.0


@pytest.mark.parametrize("channels", [16, 48, 192, 384])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_channel_of_a_large_tensor_is_sampled(channels: int, axis: int) -> None:
    """A distance that the number of channels divides would sample some channels alone."""
    values = np.zeros((64, 128, channels), np.float32)
    values[..., 1::2] = 1.0
    counts = histogram(values if axis else values.transpose(2, 0, 1)).counts
    assert counts[BINS // 2] / counts.sum() == pytest.approx(0.5, abs=0.01)


def test_percentile_clips_the_tails() -> None:
    made = histogram(np.linspace(0, 100, 10001), [100_0.0])
    whole, most = percentile(made, 1.0), percentile(made, 0.98)
    assert whole == Range(0.0, 1000.0)
    assert most.low == pytest.approx(1, abs=made.width) or most.low == 0.0
    assert most.high == pytest.approx(99, abs=2 * made.width)


def test_percentile_of_a_uniform_distribution_on_both_sides() -> None:
    made = histogram(np.linspace(-1, 1, 16001))
    found = percentile(made, 0.9)
    assert found.low == pytest.approx(-0.9, abs=2 * made.width)
    assert found.high == pytest.approx(0.9, abs=2 * made.width)


def test_mse_clips_nothing_of_a_uniform_distribution() -> None:
    assert mse(histogram(np.linspace(-1, 1, 16001))) == Range(-1.0, 1.0)


def test_mse_clips_a_normal_distribution_where_the_errors_are_even() -> None:
    """256 levels for a normal distribution: about ±3.9 σ (Banner et al., "ACIQ", 2019), whatever its largest value."""
    values = np.random.default_rng(0).standard_normal((64, 1 << 14)).astype(np.float32)
    values[0, 0] = 9.0
    found = mse(histogram(*values))
    assert 3.5 < found.high < 4.5
    assert -4.5 < found.low < -3.5


def test_mse_keeps_an_outlier_that_carries_weight() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 900), np.full(100, 50.0)])
    assert mse(histogram(values)).high > 49


def test_entropy_drops_a_far_outlier_and_keeps_a_uniform_distribution() -> None:
    normal = np.random.default_rng(0).standard_normal(1 << 14)
    assert entropy(histogram(normal, [60.0])).high < 20
    assert entropy(histogram(np.linspace(-1, 1, 16001))).high > 0.9


@pytest.mark.parametrize("estimate", [min_max, mse, entropy, lambda each: percentile(each, 0.999)])
def test_a_tensor_that_is_always_zero(estimate: object) -> None:
    assert estimate(histogram(np.zeros(10))) == Range(0.0, 0.0)  # type: ignore[operator]


def test_clipping_is_by_magnitude() -> None:
    assert Range(-0.17, 10.0).clipped(0.5) == Range(-0.17, 5.0)
    assert Range(-4.0, 2.0).clipped(0.25) == Range(-1.0, 1.0)
