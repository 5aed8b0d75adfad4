"""Pillow's antialiased resize of a window of an image.

Pillow's ``ImagingResample`` (src/libImaging/Resample.c) filters along the rows of an image, rounds to 8 bits, filters
along the columns and rounds again. Here rows are filtered as they lie in memory, with their channels side by side
(``interleaved_taps``): they are neither copied by channel nor back.

The coefficients are exactly Pillow's 22-bit integers. Its sums are exact, these are in float32. A value can be 1 off
only where the exact sum is so close to a half that the error of float32 matters, about ``taps * 2**-16``. On photos
these are 2 values in 100 000. On noise they are up to 3 in 100 if the ratio of the sizes makes halves common, such as
2:3. The first pass is in float64, and exact, where two of its values could make one of the second pass 2 off. Drawings
repeat their rows, and with them a wrong rounding, so the first pass of frames up to 640x480 is exact wherever halves
are common. Both passes in float64 would equal Pillow, and take up to a third longer for frames as small as the
network's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np

from vitedge.bundle.preprocessing import Interpolation
from vitedge.prediction import Image
from vitedge.runtime.preprocess.banded import ColumnFilter, FloatKind, LineFilter, Values, lines_at_once
from vitedge.runtime.preprocess.taps import FILTERS, Indices, ResizeAxis, Taps, interleaved_taps, pillow_taps
from vitedge.runtime.system.capabilities import read_features

Resize: TypeAlias = Callable[[Image, Image], None]
"""``resize(frame, out)`` fills ``out``."""

FREQUENT_HALVES = 128
"""Denominator of the ratio up to which halves are frequent. Above it, no value in 10^9 of photos and noise was 2 off,
and 1 value in 10^7 of patterns in pure black and white."""
SMALL_FRAME = 640 * 480
"""Number of pixels up to which the first pass is exact wherever halves are frequent, which costs little there. In
larger drawings of flat colours, bicubic makes up to 3 values in 10^5 2 off."""
BLOCK_DOUBLES = 8
"""Number of doubles in a block of the first pass: as many as a register of AVX-512 holds, or two of AVX2."""


def pillow_resize(interpolation: Interpolation, rows: ResizeAxis, columns: ResizeAxis, *, reverse: bool) -> Resize:
    """Make a function that resizes images of one size like ``Image.resize`` of Pillow 13.

    The function owns scratch buffers and is not thread-safe. Older versions of Pillow always filtered along the rows
    first. Version 13 begins with the columns if the height shrinks by more than twice as many pixels as the width; this
    changes only the results of filters that overshoot, next to black and white.

    Args:
        interpolation: filter.
        rows: resize of the rows.
        columns: resize of the columns.
        reverse: whether to reverse the order of the channels, which costs nothing.
    """
    if rows.source == rows.resized and columns.source == columns.resized:
        window = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        return lambda frame, out: _copy_pixels(frame[window], reverse, out)
    if interpolation == "nearest":
        grid = np.ix_(_nearest(rows), _nearest(columns))
        return lambda frame, out: _copy_pixels(frame[grid], reverse, out)
    if rows.source - rows.resized > max(0, 2 * (columns.source - columns.resized)):
        transposed = _make_resampler(interpolation, first=rows, second=columns, reverse=reverse)
        return lambda frame, out: transposed(frame.transpose(1, 0, 2), out.transpose(1, 0, 2))
    return _make_resampler(interpolation, first=columns, second=rows, reverse=reverse)


def _make_resampler(interpolation: Interpolation, first: ResizeAxis, second: ResizeAxis, *, reverse: bool) -> Resampler:
    filter_ = FILTERS[interpolation]
    kind: FloatKind = np.float64 if _errors_may_meet(first, second) else np.float32
    return Resampler(pillow_taps(filter_, first), pillow_taps(filter_, second), kind, reverse=reverse)


def _errors_may_meet(first: ResizeAxis, second: ResizeAxis) -> bool:
    """Decide whether wrong roundings of the first pass could add up in the second pass and make a value 2 off.

    They are frequent enough if the fraction ``source / resized`` has a small denominator. Two of them suffice if the
    second pass shrinks by less than half, because one row or column then weighs more than the others together.
    """
    if first.source < first.resized or second.source < second.resized:
        return True
    denominator = first.resized // math.gcd(first.source, first.resized)
    small = first.source * second.source <= SMALL_FRAME
    return denominator <= FREQUENT_HALVES and (small or second.source < 2 * second.resized)


def _copy_pixels(source: Image, reverse: bool, out: Image) -> None:
    """Copy pixels. Exchange channels after copying them all, which is faster than copying each with its stride."""
    np.copyto(out, source)
    if reverse:
        np.copyto(out[:, :, 0], source[:, :, 2])
        np.copyto(out[:, :, 2], source[:, :, 0])


def _convert(source: Image | Values, out: Image | Values) -> None:
    """Convert ``h×w×3`` values: whole rows at once where they lie in one piece, else channel by channel."""
    if all(each.strides[1] == 3 * each.strides[2] for each in (source, out)):
        np.copyto(out, source, casting="unsafe")
        return
    for channel in range(3):
        np.copyto(out[:, :, channel], source[:, :, channel], casting="unsafe")


def _nearest(axis: ResizeAxis) -> Indices:
    """Return the pixels that Pillow picks; like ``ImagingScaleAffine`` (src/libImaging/Geometry.c), sum steps."""
    step = axis.source / axis.resized
    positions = np.add.accumulate(np.concatenate([[step * 0.5], np.full(axis.stop - 1, step)]))
    return positions[axis.start :].astype(np.intp)


@cache
def _block_floats() -> int:
    """Return the number of floats in a block of the first pass that OpenBLAS multiplies fastest.

    Its kernels for AVX-512 compute up to 16 floats at once, so the 15 of 5 pixels pay, because their windows are
    narrower. Its other kernels compute 15 floats in parts of 8, 4, 2 and 1, which takes longer than 16 at once.
    """
    return 15 if "AVX-512" in (read_features() or ()) else 16


class Resampler:
    """Resizes frames of one size to a window of the resized image. Not thread-safe: it owns its scratch buffers.

    Args:
        horizontal: taps of the columns of the window.
        vertical: taps of its rows.
        kind: type of the sums of the first pass; the second pass is in float32.
        reverse: whether to reverse the order of the channels.
    """

    def __init__(self, horizontal: Taps, vertical: Taps, kind: FloatKind, *, reverse: bool) -> None:
        self._may_overshoot = bool(min(horizontal.weights.min(), vertical.weights.min()) < 0.0)
        self._columns = slice(horizontal.begin, horizontal.end)
        width = horizontal.end - horizontal.begin
        count = min(lines_at_once(3 * width * np.dtype(kind).itemsize), vertical.end - vertical.begin)
        taps = interleaved_taps(horizontal, 3, reverse=reverse)
        self._across = LineFilter(taps, kind, _block_floats() if kind is np.float32 else BLOCK_DOUBLES, count)
        self._pixels = self._across.values.reshape(count, width, 3)
        self._sums = None if kind is np.float32 else np.empty((count, self._across.outputs), kind)
        self._whole = np.empty((0 if kind is np.float32 else count, self._across.outputs), np.int32)
        self._resized: Values = np.empty((len(vertical.first), self._across.outputs), np.float32)
        self._down = ColumnFilter(vertical, self._resized, count)
        self._result = self._resized[:, : len(taps.first)].reshape(len(vertical.first), -1, 3)

    def __call__(self, frame: Image, out: Image) -> None:
        """Resize.

        Args:
            frame: ``H×W×3``.
            out: ``h×w×3``, receives the window.
        """
        pixels = frame[:, self._columns]
        for strip in self._down.strips:
            strip.make_room()
            count = len(strip.values)
            sums = strip.values if self._sums is None else self._sums[:count]
            _convert(pixels[strip.rows], self._pixels[:count])
            self._across(sums)
            self._round(sums, strip.values)
            strip.filter()
        np.add(self._resized, 0.5, out=self._resized)
        self._clip(self._resized)
        _convert(self._result, out)

    def _round(self, sums: Values, out: Values) -> None:
        """Round to 8 bits; halves go up. Doubles pass through integers, which takes less time than ``floor``."""
        np.add(sums, 0.5, out=sums)
        if sums.dtype == out.dtype:
            np.floor(sums, out=out)
        else:
            whole = self._whole[: len(sums)]
            np.copyto(whole, sums, casting="unsafe")
            np.copyto(out, whole, casting="unsafe")
        self._clip(out)

    def _clip(self, values: Values) -> None:
        if self._may_overshoot:
            np.clip(values, 0.0, 255.0, out=values)
