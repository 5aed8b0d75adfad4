"""Taps of Pillow's filters, of shared values and of interleaved channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from axes import axes, dense
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.bundle.preprocessing import Interpolation
from vitedge.runtime.preprocess.taps import FILTERS, ResizeAxis, Taps, interleaved_taps, pillow_taps, shared_taps


@settings(max_examples=200, deadline=None)
@given(axis=axes(), name=st.sampled_from(sorted(FILTERS)))
def test_taps_sum_to_one_and_stay_inside(axis: ResizeAxis, name: Interpolation) -> None:
    taps = pillow_taps(FILTERS[name], axis)
    np.testing.assert_allclose(taps.weights.sum(axis=1), 1.0, atol=taps.weights.shape[1] * 2.0**-22)
    assert taps.begin >= 0
    assert taps.end <= taps.source
    beyond = taps.first[:, None] + np.arange(taps.weights.shape[1]) >= axis.source
    assert not taps.weights[beyond].any()


@settings(max_examples=100, deadline=None)
@given(axis=axes(), name=st.sampled_from(sorted(FILTERS)), data=st.data())
def test_a_matrix_holds_the_weights_of_some_outputs(axis: ResizeAxis, name: Interpolation, data: Any) -> None:
    taps = interleaved_taps(pillow_taps(FILTERS[name], axis), data.draw(st.integers(1, 4)), reverse=False)
    start = data.draw(st.integers(0, len(taps.first) - 1))
    outputs = slice(start, data.draw(st.integers(start + 1, len(taps.first))))
    firsts, ends = taps.spans()
    begin, end = int(firsts[outputs].min()), int(ends[outputs].max())
    np.testing.assert_array_equal(taps.matrix(outputs, begin, end), dense(taps)[outputs, begin:end])
    assert not dense(taps)[outputs, :begin].any()
    assert not dense(taps)[outputs, end:].any()


@settings(max_examples=100, deadline=None)
@given(source=st.integers(1, 60), outputs=st.integers(1, 20), step=st.sampled_from([1, 2, 4]), data=st.data())
def test_shared_taps_filter_values_as_their_repetition(source: int, outputs: int, step: int, data: Any) -> None:
    count = data.draw(st.integers(1, source))
    first = data.draw(st.lists(st.integers(0, source - count), min_size=outputs, max_size=outputs))
    weights = np.random.default_rng(0).normal(size=(outputs, count))
    taps = Taps(np.array(first), weights, source)
    values = np.random.default_rng(1).normal(size=-(-source // step))
    np.testing.assert_allclose(
        dense(shared_taps(taps, step)) @ values, dense(taps) @ values.repeat(step)[:source], atol=1e-12
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_interleaved_taps_filter_each_channel(channels: int, reverse: bool) -> None:
    taps = pillow_taps(FILTERS["bicubic"], ResizeAxis(50, 20, 3, 18))
    pixels = np.random.default_rng(0).normal(size=(50, channels))
    filtered = dense(interleaved_taps(taps, channels, reverse=reverse)) @ pixels.reshape(-1)
    expected = (dense(taps) @ pixels)[:, :: -1 if reverse else 1]
    np.testing.assert_allclose(filtered.reshape(-1, channels), expected, atol=1e-12)
