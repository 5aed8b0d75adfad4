"""The bands against the taps they are made of, and the resampler against Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from axes import axes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pillow_rounding import Mask, filters_columns_first, may_differ

from vitedge.bundle.preprocessing import INTERPOLATIONS, Interpolation
from vitedge.runtime.preprocess import banded, pillow_resample
from vitedge.runtime.preprocess.pillow_resample import pillow_resize
from vitedge.runtime.preprocess.taps import FILTERS, ResizeAxis

Image = NDArray[np.uint8]


def resized_by_pillow(frame: Image, name: Interpolation, rows: ResizeAxis, columns: ResizeAxis) -> Image:
    pillow = pytest.importorskip("PIL.Image")
    how = pillow.Resampling[name.upper()]
    whole = np.asarray(pillow.fromarray(frame).resize((columns.resized, rows.resized), how))
    return whole[rows.start : rows.stop, columns.start : columns.stop]


def resized(frame: Image, name: Interpolation, rows: ResizeAxis, columns: ResizeAxis, reverse: bool = False) -> Image:
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
    pillow_resize(name, rows, columns, reverse=reverse)(frame, out)
    return out


def pillow_version() -> int:
    return int(pytest.importorskip("PIL").__version__.split(".")[0])


@settings(max_examples=120, deadline=None)
@given(rows=axes(), columns=axes(), name=st.sampled_from(INTERPOLATIONS), seed=st.integers(0, 2**32 - 1))
def test_noise_is_resized_as_by_pillow(rows: ResizeAxis, columns: ResizeAxis, name: Interpolation, seed: int) -> None:
    assume(pillow_version() >= 13 or not filters_columns_first(rows, columns))
    frame = np.random.default_rng(seed).integers(0, 256, (rows.source, columns.source, 3), dtype=np.uint8)
    expected = resized_by_pillow(frame, name, rows, columns)
    assert_as_pillow(resized(frame, name, rows, columns), expected, may_differ(frame, name, rows, columns))


@settings(max_examples=1000, deadline=None)
@given(
    ratios=st.tuples(*[st.tuples(st.integers(1, 12), st.integers(1, 12))] * 2),
    scales=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    name=st.sampled_from(sorted(FILTERS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_is_resized_as_by_pillow_where_halves_are_frequent(
    ratios: tuple[tuple[int, int], tuple[int, int]], scales: tuple[int, int], name: Interpolation, seed: int
) -> None:
    rows, columns = (
        ResizeAxis(source * scale, target * scale, 0, target * scale)
        for (source, target), scale in zip(ratios, scales, strict=True)
    )
    assume(pillow_version() >= 13 or not filters_columns_first(rows, columns))
    frame = np.random.default_rng(seed).integers(0, 256, (rows.source, columns.source, 3), dtype=np.uint8)
    expected = resized_by_pillow(frame, name, rows, columns)
    assert_as_pillow(resized(frame, name, rows, columns), expected, may_differ(frame, name, rows, columns))


def assert_as_pillow(got: Image, expected: Image, allowed: Mask) -> None:
    """Equal, except for values that may round to a neighbour."""
    off = np.abs(got.astype(int) - expected)
    assert off.max() <= 1
    assert not np.any((off > 0) & ~allowed)


@pytest.mark.parametrize("floats", [1, 8, 15, 16])
def test_blocks_of_any_width_give_the_same(floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_resample, "_block_floats", lambda: floats)
    frame = np.random.default_rng(0).integers(0, 256, (1000, 900, 3), dtype=np.uint8)
    rows, columns = ResizeAxis(1000, 41, 2, 39), ResizeAxis(900, 53, 5, 48)
    got, expected = (resize(frame, "bicubic", rows, columns) for resize in (resized, resized_by_pillow))
    assert_as_pillow(got, expected, may_differ(frame, "bicubic", rows, columns))


@pytest.mark.parametrize(
    ("features", "floats"), [(("AVX2", "AVX-512"), 15), (("AVX2",), 16), (("NEON",), 16), (None, 16)]
)
def test_blocks_are_as_wide_as_suits_the_processor(
    features: tuple[str, ...] | None, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_resample, "read_features", lambda: features)
    assert pillow_resample._block_floats.__wrapped__() == floats


def test_a_value_that_rounds_otherwise_is_noticed_unless_it_is_next_to_a_half() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    rows, columns = ResizeAxis(70, 31, 0, 31), ResizeAxis(90, 47, 0, 47)
    got, allowed = resized(frame, "bicubic", rows, columns), may_differ(frame, "bicubic", rows, columns)
    assert np.mean(allowed) < 1e-2
    for wrong in (got + np.uint8(1), np.where(np.arange(got.size).reshape(got.shape) == 77, 255 - got, got)):
        with pytest.raises(AssertionError):
            assert_as_pillow(wrong, got, allowed)


def black_and_white(height: int, width: int, seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)


RATIOS = [(5, 4), (8, 7), (16, 15), (3, 2), (15, 8), (2, 1), (5, 2), (45, 16)]


@pytest.mark.parametrize("name", sorted(FILTERS))
@pytest.mark.parametrize(("source", "target"), RATIOS)
def test_ratios_with_frequent_halves(source: int, target: int, name: Interpolation) -> None:
    repeats = 300 // source
    axis = ResizeAxis(repeats * source, repeats * target, 0, repeats * target)
    frame = black_and_white(axis.source, axis.source, seed=source)
    got, expected = resized(frame, name, axis, axis), resized_by_pillow(frame, name, axis, axis)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_enlarged_patterns() -> None:
    rows, columns = ResizeAxis(9, 95, 0, 95), ResizeAxis(28, 295, 0, 295)
    for seed in range(20):
        frame = black_and_white(9, 28, seed)
        got, expected = resized(frame, "lanczos", rows, columns), resized_by_pillow(frame, "lanczos", rows, columns)
        assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize(("height", "width"), [(512, 512), (640, 480), (300, 700), (133, 127)])
def test_black_and_white_noise_is_resized_as_by_pillow(name: Interpolation, height: int, width: int) -> None:
    rows, columns = ResizeAxis(height, 128, 0, 128), ResizeAxis(width, 128, 0, 128)
    if pillow_version() < 13 and filters_columns_first(rows, columns):
        pytest.skip("Pillow 13 changed the order of the passes for this shape")
    frame = black_and_white(height, width, seed=height)
    off = np.abs(resized(frame, name, rows, columns).astype(int) - resized_by_pillow(frame, name, rows, columns))
    assert off.max() <= 2
    assert np.mean(off == 2) < 1e-4
    assert np.mean(off > 0) < 5e-3


def test_halves_are_rounded_up_as_by_pillow() -> None:
    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    axis = ResizeAxis(64, 32, 0, 32)
    halves = frame.reshape(32, 2, 32, 2, 3).sum(axis=3) % 2
    assert halves.any()
    for name in ("box", "bilinear"):
        np.testing.assert_array_equal(resized(frame, name, axis, axis), resized_by_pillow(frame, name, axis, axis))


def test_overshoot_is_clipped_between_the_passes() -> None:
    frame = np.zeros((60, 60, 3), np.uint8)
    frame[20:40, 20:40] = 255
    axis = ResizeAxis(60, 45, 0, 45)
    np.testing.assert_array_equal(
        resized(frame, "lanczos", axis, axis), resized_by_pillow(frame, "lanczos", axis, axis)
    )


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_reversed_channels(name: Interpolation) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    for rows, columns in [
        (ResizeAxis(90, 40, 3, 31), ResizeAxis(70, 50, 2, 44)),
        (ResizeAxis(90, 90, 5, 60), ResizeAxis(70, 70, 9, 50)),
    ]:
        plain = resized(frame, name, rows, columns)
        off = resized(frame, name, rows, columns, reverse=True).astype(int) - plain[:, :, ::-1]
        assert np.abs(off).max() <= 1
        assert np.count_nonzero(off) <= 3


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(720, 1280, 256), (1080, 1920, 256), (2160, 3840, 256), (120, 160, 512), (3000, 4000, 585), (200, 300, 32)],
)
def test_no_product_is_large_enough_for_the_threads_of_blas(
    height: int, width: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    matmul = np.matmul

    def watched(left: Any, right: Any, *, out: Any) -> Any:
        sizes.append(left.shape[-2] * left.shape[-1] * right.shape[-1])
        return matmul(left, right, out=out)

    monkeypatch.setattr(np, "matmul", watched)
    rows = ResizeAxis(height, side, 0, side)
    columns = ResizeAxis(width, side * width // height, side // 8, side + side // 8)
    resized(np.zeros((height, width, 3), np.uint8), "bicubic", rows, columns)
    assert sizes
    assert max(sizes) <= banded.SINGLE_THREAD_PRODUCT
