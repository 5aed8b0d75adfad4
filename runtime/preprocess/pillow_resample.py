"""Pillow's antialiased resize of a window of an image, as banded matrix products.

Pillow's ``ImagingResample`` (src/libImaging/Resample.c) filters along the rows of an image, rounds to 8 bits, filters
along the columns and rounds again. An output pixel is a weighted sum of a few neighbouring input pixels, so each pass
is a product with a banded matrix. Here the band is cut into equal dense blocks, and one batched ``np.matmul`` runs over
windows of the input that begin at equal distances: no index arrays and no copies. Every product is small enough that
OpenBLAS keeps it on the calling thread. Its own threads would spin on after the call, on cores that inference needs.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Interpolation
from vitedge.prediction import Image

Float: TypeAlias = NDArray[np.float64]
Planes: TypeAlias = NDArray[np.floating[Any]]
FloatKind: TypeAlias = type[np.float32] | type[np.float64]
Resize: TypeAlias = Callable[[Image, bool, Image], None]
"""``resize(frame, reverse, out)`` fills ``out``, and reverses the order of the channels if ``reverse`` is set."""

COEFFICIENT_BITS = 22
FREQUENT_HALVES = 128
"""Denominator of the ratio up to which halves are frequent. Above it, no value in 10^9 of photos and noise was 2 off,
and 1 value in 10^7 of patterns in pure black and white."""
SMALL_FRAME = 640 * 480
"""Number of pixels up to which the first pass is exact wherever halves are frequent, which costs little there. In
larger drawings of flat colours, bicubic makes up to 3 values in 10^5 2 off."""
BLOCK_SIZES = (8, 16)
"""Candidates for the number of outputs in a block. Fewer would waste BLAS's SIMD kernels, more would multiply zeros."""
CALL_COST = 128
"""Cost of starting one product, in multiply-adds per row."""
SINGLE_THREAD_PRODUCT = 4 * 65536
"""Rows x columns x depth up to which OpenBLAS uses a single thread (interface/gemm.c)."""
STRIP_BYTES = 512 * 1024
"""Size of the input rows that are filtered at a time, so that they stay in the cache."""


@dataclass(frozen=True)
class Filter:
    """A resampling filter.

    Attributes:
        support: half of its width, in pixels of the coarser grid.
        weight: returns its values at given distances from the centre.
    """

    support: float
    weight: Callable[[Float], Float]


def _box(x: Float) -> Float:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: Float) -> Float:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _hamming(x: Float) -> Float:
    pedestal, height = float(np.float32(0.54)), float(np.float32(0.46))
    return np.where(np.abs(x) < 1.0, np.sinc(x) * (pedestal + height * np.cos(np.pi * x)), 0.0)


def _bicubic(x: Float) -> Float:
    a = -0.5
    x = np.abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _lanczos(x: Float) -> Float:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3.0), 0.0)


FILTERS: Mapping[Interpolation, Filter] = {
    "box": Filter(0.5, _box),
    "bilinear": Filter(1.0, _bilinear),
    "hamming": Filter(1.0, _hamming),
    "bicubic": Filter(2.0, _bicubic),
    "lanczos": Filter(3.0, _lanczos),
}


@dataclass(frozen=True)
class ResizeAxis:
    """The resize of one axis of an image, and the part of the result that is needed.

    Attributes:
        source: size of the image in pixels.
        resized: size of the whole resized image in pixels.
        start: first pixel that is needed of the resized image.
        stop: one past the last pixel that is needed.
    """

    source: int
    resized: int
    start: int
    stop: int


def pillow_resize(interpolation: Interpolation, rows: ResizeAxis, columns: ResizeAxis) -> Resize:
    """Make a function that resizes images of one size like ``Image.resize`` of Pillow 13.

    The function owns scratch buffers and is not thread-safe. Older versions of Pillow always filtered along the rows
    first. Version 13 begins with the columns if the height shrinks by more than twice as many pixels as the width; this
    changes only the results of filters that overshoot, next to black and white.
    """
    if rows.source == rows.resized and columns.source == columns.resized:
        window = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        return lambda frame, reverse, out: _copy(frame[window], reverse, out)
    if interpolation == "nearest":
        grid = np.ix_(_nearest(rows), _nearest(columns))
        return lambda frame, reverse, out: _copy(frame[grid], reverse, out)
    if rows.source - rows.resized > max(0, 2 * (columns.source - columns.resized)):
        transposed = _make_resampler(interpolation, first=rows, second=columns)
        return lambda frame, reverse, out: transposed(frame.transpose(1, 0, 2), reverse, out.transpose(1, 0, 2))
    return _make_resampler(interpolation, first=columns, second=rows)


def _make_resampler(interpolation: Interpolation, first: ResizeAxis, second: ResizeAxis) -> Resampler:
    filter_ = FILTERS[interpolation]
    kind: FloatKind = np.float64 if _errors_may_meet(first, second) else np.float32
    return Resampler(pillow_taps(filter_, first), pillow_taps(filter_, second), kind)


def _errors_may_meet(first: ResizeAxis, second: ResizeAxis) -> bool:
    """Whether wrong roundings of the first pass could meet in one value of the second pass and make it 2 off.

    They are frequent enough if the fraction ``source / resized`` has a small denominator. Two of them suffice if the
    second pass shrinks by less than half, because one row or column then weighs more than the others together.
    """
    if first.source < first.resized or second.source < second.resized:
        return True
    denominator = first.resized // math.gcd(first.source, first.resized)
    small = first.source * second.source <= SMALL_FRAME
    return denominator <= FREQUENT_HALVES and (small or second.source < 2 * second.resized)


def _copy(source: Image, reverse: bool, out: Image) -> None:
    """Copy pixels. Exchange channels after copying them all, which is faster than copying each with its stride."""
    np.copyto(out, source)
    if reverse:
        np.copyto(out[:, :, 0], source[:, :, 2])
        np.copyto(out[:, :, 2], source[:, :, 0])


def _nearest(axis: ResizeAxis) -> NDArray[np.intp]:
    """Return the pixels that Pillow picks; like ``ImagingScaleAffine`` (src/libImaging/Geometry.c), sum steps."""
    step = axis.source / axis.resized
    positions = np.add.accumulate(np.concatenate([[step * 0.5], np.full(axis.stop - 1, step)]))
    return positions[axis.start :].astype(np.intp)


@dataclass(frozen=True)
class Taps:
    """The filter taps of every output along one axis.

    Attributes:
        first: ``(outputs,)`` index of the first input of each output.
        weights: ``(outputs, taps)`` weights of the inputs from ``first`` on; zero where an output has fewer taps.
        source: size of the input; every weight beyond it is zero.
    """

    first: NDArray[np.intp]
    weights: Float
    source: int

    @property
    def begin(self) -> int:
        """The first input that any output needs."""
        return int(self.first.min())

    @property
    def end(self) -> int:
        """One past the last input that any output needs."""
        return min(int(self.first.max()) + int(self.weights.shape[1]), self.source)


def pillow_taps(filter_: Filter, axis: ResizeAxis) -> Taps:
    """Compute Pillow's coefficients, as ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` do."""
    scale = axis.source / axis.resized
    filter_scale = max(scale, 1.0)
    support = filter_.support * filter_scale
    centers = (np.arange(axis.start, axis.stop) + 0.5) * scale
    first = np.maximum(np.trunc(centers - support + 0.5), 0.0)
    last = np.minimum(np.trunc(centers + support + 0.5), axis.source)
    positions = first[:, None] + np.arange(int((last - first).max()))
    weights = filter_.weight((positions - centers[:, None] + 0.5) / filter_scale)
    weights[positions >= last[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    one = float(1 << COEFFICIENT_BITS)
    whole = np.trunc(weights * one + np.copysign(0.5, weights))
    return Taps(first.astype(np.intp), whole / one, axis.source)


def shared_taps(taps: Taps, step: int) -> Taps:
    """Return the taps of an axis where ``step`` neighbouring inputs, from the first on, share one value.

    They give what ``taps`` give of the values repeated ``step`` times.
    """
    count = taps.weights.shape[1]
    first = taps.first // step
    weights = np.zeros((len(first), (count + step - 2) // step + 1))
    outputs = np.arange(len(first))
    for tap in range(count):
        weights[outputs, (taps.first + tap) // step - first] += taps.weights[:, tap]
    return Taps(first, weights, -(-taps.source // step))


@dataclass(frozen=True)
class Bands:
    """Taps cut into blocks of equal size, whose windows of the input begin at equal distances.

    Attributes:
        begin: index of the input where the first window begins; may lie before the image.
        step: distance from one window to the next, in inputs.
        matrices: ``(blocks, outputs of a block, inputs of a window)``.
    """

    begin: int
    step: int
    matrices: Planes

    @property
    def outputs(self) -> int:
        """Number of outputs of all blocks; the outputs after the last tap are zero."""
        blocks, size, _ = self.matrices.shape
        return int(blocks * size)

    @property
    def inputs(self) -> int:
        """Number of inputs that all windows together span."""
        blocks, _, window = self.matrices.shape
        return int((blocks - 1) * self.step + window)


@dataclass(frozen=True)
class _Cut:
    """One way to cut taps into blocks."""

    size: int
    begin: int
    step: int
    window: int
    blocks: int

    @property
    def cost(self) -> int:
        return self.blocks * (self.size * self.window + CALL_COST)


def cut_into_bands(taps: Taps, kind: FloatKind, sizes: tuple[int, ...] = BLOCK_SIZES) -> Bands:
    """Cut taps into bands at the lowest cost, in float32 or float64, in blocks of one of the ``sizes``."""
    outputs = len(taps.first)
    distance = (taps.first[-1] - taps.first[0]) / max(outputs - 1, 1)
    steps = ((size, step) for size in sizes for step in {math.floor(distance * size), math.ceil(distance * size)})
    cut = min((_cut(taps, size, step) for size, step in steps), key=lambda each: each.cost)
    matrices = np.zeros((cut.blocks * cut.size, cut.window), kind)
    output = np.arange(outputs)
    shift = taps.first - cut.begin - output // cut.size * cut.step
    column = shift[:, None] + np.arange(taps.weights.shape[1])
    kept = taps.weights != 0.0
    matrices[np.broadcast_to(output[:, None], kept.shape)[kept], column[kept]] = taps.weights[kept]
    return Bands(cut.begin, cut.step, matrices.reshape(cut.blocks, cut.size, cut.window))


def _cut(taps: Taps, size: int, step: int) -> _Cut:
    """Cut into blocks of ``size``. The window fits the worst block, because steps are whole and distances are not."""
    shift = np.arange(len(taps.first)) // size * step
    begin = int((taps.first - shift).min())
    end = int((np.minimum(taps.first + taps.weights.shape[1], taps.source) - shift).max())
    return _Cut(size, begin, step, end - begin, -(-len(taps.first) // size))


@dataclass(frozen=True)
class Strip:
    """Rows that are converted and filtered together; all arrays are views of scratch buffers.

    Attributes:
        rows: rows of the image.
        lines: ``(rows, channels, inputs)``, holds the pixels. Beside them it may hold any finite numbers.
        pixels: ``(rows, channels, columns)``, receives the image; a part of ``lines``.
        windows: ``(blocks, channels * rows, inputs of a window)``, windows of ``lines``.
        blocks: ``(blocks, channels * rows, outputs)``, receives the filtered rows.
        filtered: ``(rows, channels, outputs)``, the same memory as ``blocks``.
        rounded: ``(rows, channels, outputs)``, the input of the vertical pass; ``filtered``, if nothing is rounded.
    """

    rows: slice
    lines: Planes
    pixels: Planes
    windows: Planes
    blocks: Planes
    filtered: Planes
    rounded: Planes


class BandedPasses:
    """Both passes over images of one size. Not thread-safe: it owns its scratch buffers.

    Fill the ``pixels`` of every strip, call ``across`` for it and round its rows; then call ``down``.

    Attributes:
        columns: columns of the image that are needed.
        inside: the inputs of a line that are pixels.
        strips: the rows of the image that are needed, a few at a time.
        may_overshoot: whether a result may lie outside the range of the pixels.

    Args:
        horizontal: taps of the columns of the window.
        vertical: taps of its rows.
        channels: number of channels.
        kind: type of the sums of the first pass, if it is rounded; None if not. All other sums are in float32.
        strip_bytes: size of the rows that are filtered at a time.
        sizes: candidates for the number of outputs in a block of the first pass.
    """

    def __init__(
        self,
        horizontal: Taps,
        vertical: Taps,
        channels: int,
        kind: FloatKind | None,
        *,
        strip_bytes: int = STRIP_BYTES,
        sizes: tuple[int, ...] = BLOCK_SIZES,
    ) -> None:
        self.columns = slice(horizontal.begin, horizontal.end)
        self.may_overshoot = bool(min(horizontal.weights.min(), vertical.weights.min()) < 0.0)
        across, down = cut_into_bands(horizontal, kind or np.float32, sizes), cut_into_bands(vertical, np.float32)
        self._across = np.ascontiguousarray(across.matrices.transpose(0, 2, 1))
        self._down = down.matrices[:, None]
        rows: Planes = np.zeros((down.inputs, channels, across.outputs), np.float32)
        margin = horizontal.begin - across.begin
        self.inside = slice(margin, margin + horizontal.end - horizontal.begin)
        needed = rows[vertical.begin - down.begin :]
        self.strips = _strips(across, self.inside, vertical, needed, strip_bytes, rounds=kind is not None)
        resized: Planes = np.empty((down.outputs, channels, across.outputs), np.float32)
        self._row_windows, self._blocks = _vertical_views(rows, resized, down)
        self._resized = resized[: len(vertical.first), :, : len(horizontal.first)]

    def across(self, strip: Strip) -> None:
        """Filter the rows of a strip from its ``pixels`` into its ``filtered``."""
        np.matmul(strip.windows, self._across, out=strip.blocks)

    def down(self) -> Planes:
        """Filter the columns, from the ``rounded`` of all strips.

        Returns:
            ``(h, channels, w)`` float32, a scratch buffer.
        """
        np.matmul(self._down, self._row_windows, out=self._blocks)
        return self._resized


class Resampler:
    """Resizes frames of one size to a window of the resized image. Not thread-safe: it owns its scratch buffers.

    Args:
        horizontal: taps of the columns of the window.
        vertical: taps of its rows.
        kind: type of the sums of the first pass; the second pass is in float32.
    """

    def __init__(self, horizontal: Taps, vertical: Taps, kind: FloatKind) -> None:
        self._passes = BandedPasses(horizontal, vertical, 3, kind)

    def __call__(self, frame: Image, reverse: bool, out: Image) -> None:
        """Resize.

        Args:
            frame: ``H×W×3``.
            reverse: whether to reverse the order of the channels, which costs nothing.
            out: ``h×w×3``, receives the window.
        """
        planes = frame.transpose(0, 2, 1)[:, :: -1 if reverse else 1, self._passes.columns]
        for strip in self._passes.strips:
            np.copyto(strip.pixels, planes[strip.rows])
            self._passes.across(strip)
            self._round(strip.filtered, strip.rounded)
        resized = self._passes.down()
        self._round(resized, resized)
        for channel in range(3):
            np.copyto(out[:, :, channel], resized[:, channel], casting="unsafe")

    def _round(self, values: Planes, out: Planes) -> None:
        """Round to the nearest value of 8 bits; halves go up. ``values`` is overwritten."""
        np.add(values, 0.5, out=values)
        if self._passes.may_overshoot:
            np.clip(values, 0.0, 255.0, out=values)
        np.floor(values, out=out, casting="same_kind")


def _strips(
    across: Bands, inside: slice, vertical: Taps, rows: Planes, strip_bytes: int, *, rounds: bool
) -> tuple[Strip, ...]:
    """Cut the image's rows that the vertical taps need into strips, which are filtered and rounded into ``rows``."""
    count = vertical.end - vertical.begin
    kind = across.matrices.dtype
    blocks, size, window = across.matrices.shape
    channels = rows.shape[1]
    by_threads = SINGLE_THREAD_PRODUCT // (channels * size * window)
    by_cache = strip_bytes // (channels * kind.itemsize * across.inputs)
    height = max(1, min(by_threads, by_cache, count))
    source: Planes = np.zeros((height, channels, across.inputs), kind)
    filtered: Planes = np.empty((height, channels, across.outputs), kind)

    def strip(begin: int) -> Strip:
        used = min(height, count - begin)
        rounded = rows[begin : begin + used]
        results = filtered[:used] if rounds else rounded
        lines = source[:used].reshape(channels * used, across.inputs)
        line, value = lines.strides
        return Strip(
            rows=slice(vertical.begin + begin, vertical.begin + begin + used),
            lines=source[:used],
            pixels=source[:used, :, inside],
            windows=as_strided(
                lines, (blocks, channels * used, window), (across.step * value, line, value), writeable=False
            ),
            blocks=results.reshape(channels * used, blocks, size).transpose(1, 0, 2),
            filtered=results,
            rounded=rounded,
        )

    return tuple(strip(begin) for begin in range(0, count, height))


def _vertical_views(rows: Planes, resized: Planes, down: Bands) -> tuple[Planes, Planes]:
    """Make the operand and the result of the vertical pass, with the columns in parts that one thread multiplies.

    Args:
        rows: ``(inputs, channels, columns)``, the filtered rows.
        resized: ``(outputs, channels, columns)``.
        down: bands of the columns.

    Returns:
        Views ``(blocks, parts, inputs of a window, width)`` of ``rows`` and ``(blocks, parts, outputs of a block,
        width)`` of ``resized``.
    """
    blocks, size, window = down.matrices.shape
    columns = rows.shape[1] * rows.shape[2]
    widest = max(1, SINGLE_THREAD_PRODUCT // (size * window))
    width = next(part for part in range(min(widest, columns), 0, -1) if columns % part == 0)
    row, _, value = rows.strides
    shape = (blocks, columns // width, window, width)
    windows = as_strided(rows, shape, (down.step * row, width * value, row, value), writeable=False)
    return windows, resized.reshape(blocks, size, columns // width, width).transpose(0, 2, 1, 3)
