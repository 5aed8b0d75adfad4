"""The taps of Pillow's filters: which inputs of an axis make an output, and their weights.

They are Pillow's 22-bit integers (src/libImaging/Resample.c), divided by 2**22.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Interpolation

Float: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]

COEFFICIENT_BITS = 22


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


@dataclass(frozen=True)
class Taps:
    """The filter taps of every output along one axis.

    Attributes:
        first: ``(outputs,)`` index of the first input of each output.
        weights: ``(outputs, taps)`` weights of the inputs from ``first`` on; zero where an output has fewer taps.
        source: size of the input; every weight beyond it is zero.
        stride: distance of an output's inputs.
    """

    first: Indices
    weights: Float
    source: int
    stride: int = 1

    @property
    def begin(self) -> int:
        """Return the first input that any output needs."""
        return int(self.spans()[0].min())

    @property
    def end(self) -> int:
        """Return the index after the last input that any output needs."""
        return int(self.spans()[1].max())

    def spans(self) -> tuple[Indices, Indices]:
        """Return the first input of each output whose weight is not zero, and one past the last."""
        weighs = self.weights != 0.0
        first, last = weighs.argmax(axis=1), weighs.shape[1] - 1 - weighs[:, ::-1].argmax(axis=1)
        return self.first + self.stride * first, self.first + self.stride * last + 1

    def matrix(self, outputs: slice, begin: int, end: int) -> Float:
        """Return the ``(outputs, inputs)`` weights of some outputs, which need no inputs but those given."""
        weights = self.weights[outputs]
        matrix = np.zeros((len(weights), end - begin))
        output, tap = np.nonzero(weights)
        matrix[output, self.first[outputs][output] + self.stride * tap - begin] = weights[output, tap]
        return matrix


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


def interleaved_taps(taps: Taps, channels: int, *, reverse: bool) -> Taps:
    """Return the taps of lines of pixels whose channels lie side by side, as they lie in an image.

    Args:
        taps: of the pixels.
        channels: number of channels.
        reverse: whether the outputs have their channels in reverse order.
    """
    first = channels * taps.first[:, None] + np.arange(channels)[:: -1 if reverse else 1]
    return Taps(first.reshape(-1), taps.weights.repeat(channels, axis=0), channels * taps.source, channels)
