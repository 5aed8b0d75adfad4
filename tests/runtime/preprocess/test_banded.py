"""The bands against the taps they are made of, and both filters against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from axes import axes, dense
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Interpolation
from vitedge.runtime.preprocess import banded
from vitedge.runtime.preprocess.banded import Bands, ColumnFilter, LineFilter, cut_into_bands, lines_at_once
from vitedge.runtime.preprocess.taps import FILTERS, ResizeAxis, Taps, interleaved_taps, pillow_taps

NAMES = st.sampled_from(sorted(FILTERS))


def taps_of(name: Interpolation, axis: ResizeAxis, channels: int) -> Taps:
    return interleaved_taps(pillow_taps(FILTERS[name], axis), channels, reverse=channels == 3)


def dense_of_bands(bands: Bands, source: int, margin: int) -> NDArray[np.float64]:
    groups, blocks, window, size = bands.matrices.shape
    matrix = np.zeros((bands.outputs, source + 2 * margin))
    for block in range(groups * blocks):
        begin = margin + bands.begin + block // blocks * bands.steps[0] + block % blocks * bands.steps[1]
        rows = matrix[block * size : (block + 1) * size]
        rows[:, begin : begin + window] = bands.matrices[block // blocks, block % blocks].T
    return matrix


@settings(max_examples=200, deadline=None)
@given(axis=axes(), name=NAMES, channels=st.sampled_from([1, 3]), size=st.sampled_from([1, 4, 15, 16]))
def test_bands_are_the_taps(axis: ResizeAxis, name: Interpolation, channels: int, size: int) -> None:
    taps = taps_of(name, axis, channels)
    bands = cut_into_bands(taps, np.float64, size)
    margin = 2000 + bands.inputs
    matrix = dense_of_bands(bands, taps.source, margin)
    wanted = len(taps.first)
    np.testing.assert_array_equal(matrix[:wanted, margin:-margin], dense(taps))
    assert not matrix[:wanted, :margin].any()
    assert not matrix[:wanted, -margin:].any()
    assert not matrix[wanted:].any()
    assert bands.begin <= taps.begin
    assert taps.end <= bands.begin + bands.inputs


def test_windows_are_hardly_wider_than_their_taps() -> None:
    """Windows of one distance would drift away from the taps, by a fraction of a pixel each."""
    for source, size, wider in ((1920, 15, 9), (1280, 15, 9), (3840, 15, 9), (1280, 16, 1)):
        taps = taps_of("bicubic", ResizeAxis(source, 455, 115, 339), 3)
        begins, ends = taps.spans()
        starts = np.arange(0, len(begins), size)
        widest = (np.maximum.reduceat(ends, starts) - np.minimum.reduceat(begins, starts)).max()
        assert cut_into_bands(taps, np.float32, size).matrices.shape[2] <= widest + wider


@settings(max_examples=60, deadline=None)
@given(axis=axes(), name=NAMES, channels=st.sampled_from([1, 3]), lines=st.integers(1, 40))
def test_lines_are_filtered(axis: ResizeAxis, name: Interpolation, channels: int, lines: int) -> None:
    taps = taps_of(name, axis, channels)
    line_filter = LineFilter(taps, np.float64, 16, lines)
    values = np.random.default_rng(0).normal(size=(lines, taps.source))
    line_filter.values[...] = values[:, line_filter.needed]
    for count in (lines, lines // 2):
        out = np.empty((count, line_filter.outputs))
        line_filter(out)
        np.testing.assert_allclose(out[:, : len(taps.first)], values[:count] @ dense(taps).T, atol=1e-9)
        assert not out[:, len(taps.first) :].any()


@settings(max_examples=100, deadline=None)
@given(axis=axes(), name=NAMES, width=st.integers(1, 50), rows=st.integers(1, 60))
def test_columns_are_filtered_while_rows_pass(axis: ResizeAxis, name: Interpolation, width: int, rows: int) -> None:
    taps = pillow_taps(FILTERS[name], axis)
    values = np.random.default_rng(0).normal(size=(axis.source, width))
    out = np.full((len(taps.first), width), np.nan, np.float32)
    column_filter = ColumnFilter(taps, out, rows)
    for _ in range(2):
        for strip in column_filter.strips:
            strip.make_room()
            strip.values[...] = values[strip.rows]
            strip.filter()
        np.testing.assert_allclose(out, dense(taps) @ values, atol=1e-4)
        out[...] = np.nan
    passed = [row for strip in column_filter.strips for row in range(strip.rows.start, strip.rows.stop)]
    assert passed == list(range(taps.begin, taps.end))


def test_rows_that_pass_need_a_small_buffer() -> None:
    taps = pillow_taps(FILTERS["bicubic"], ResizeAxis(4000, 250, 0, 250))
    strips = ColumnFilter(taps, np.empty((250, 8), np.float32), 50).strips
    assert max(strip.values.base.shape[0] for strip in strips if strip.values.base is not None) < 800


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(720, 1280, 256), (1080, 1920, 256), (2160, 3840, 256), (120, 160, 512), (3000, 4000, 585), (200, 300, 32)],
)
def test_no_product_is_large_enough_for_the_threads_of_blas(height: int, width: int, side: int) -> None:
    columns = pillow_taps(FILTERS["bicubic"], ResizeAxis(width, side * width // height, side // 8, side + side // 8))
    rows = pillow_taps(FILTERS["bicubic"], ResizeAxis(height, side, 0, side))
    for channels, size in ((1, 16), (3, 15)):
        taps = interleaved_taps(columns, channels, reverse=False)
        line_filter = LineFilter(taps, np.float32, size, lines_at_once(4 * (taps.end - taps.begin)))
        _, _, depth, outputs = line_filter._matrices.shape
        assert line_filter._at_once * depth * outputs <= banded.SINGLE_THREAD_PRODUCT
        for strip in ColumnFilter(rows, np.empty((side, line_filter.outputs), np.float32), 48).strips:
            for matrix, _, out in strip._products:
                assert matrix.size * out.shape[1] <= banded.SINGLE_THREAD_PRODUCT
