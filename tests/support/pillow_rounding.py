"""Where a resize in float32 may round otherwise than Pillow, whose sums are exact: derived, not tuned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Interpolation
from vitedge.runtime.preprocess.pillow_resample import _errors_may_meet
from vitedge.runtime.preprocess.taps import FILTERS, ResizeAxis, Taps, pillow_taps

Image = NDArray[np.uint8]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNIT_ROUNDOFF = 2.0**-24


def filters_columns_first(rows: ResizeAxis, columns: ResizeAxis) -> bool:
    """Whether Pillow 13 filters along the columns first."""
    return rows.source - rows.resized > max(0, 2 * (columns.source - columns.resized))


def may_differ(frame: Image, name: Interpolation, rows: ResizeAxis, columns: ResizeAxis) -> Mask:
    """Mark the values of the resized window that float32 may round to a neighbour of Pillow's value.

    A dot product of n terms in float32, summed in any order, is off by at most n u / (1 - n u) times the sum of the
    terms' magnitudes, where u is 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 3.1). One more
    rounding comes with adding a half. A value of the first pass that is rounded otherwise moves the sums of the second
    pass by its weight.
    """
    if name == "nearest" or (rows.source == rows.resized and columns.source == columns.resized):
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start, 3), np.bool_)
    if filters_columns_first(rows, columns):
        return _may_differ(frame.transpose(1, 0, 2), name, rows, columns).transpose(1, 0, 2)
    return _may_differ(frame, name, columns, rows)


def _may_differ(frame: Image, name: Interpolation, first: ResizeAxis, second: ResizeAxis) -> Mask:
    """The same for a frame whose columns are the first axis to be resized."""
    across, down = (pillow_taps(FILTERS[name], axis) for axis in (first, second))
    weights = _dense(across)
    sums = np.einsum("ow,hwc->hoc", weights, frame.astype(np.float64))
    magnitudes = np.einsum("ow,hwc->hoc", np.abs(weights), frame.astype(np.float64))
    exact = _errors_may_meet(first, second)
    uncertain = np.zeros(sums.shape, np.bool_) if exact else _near_half(sums, _error(across, magnitudes))
    rounded = np.clip(np.floor(sums + 0.5), 0.0, 255.0)
    weights = _dense(down)
    sums = np.einsum("oh,hwc->owc", weights, rounded)
    magnitudes = np.einsum("oh,hwc->owc", np.abs(weights), rounded + 1.0)
    moved = np.einsum("oh,hwc->owc", np.abs(weights), uncertain.astype(np.float64))
    return _near_half(sums, moved + _error(down, magnitudes))


def _error(taps: Taps, magnitudes: Float) -> Float:
    roundings = int(np.count_nonzero(taps.weights, axis=1).max()) + 1
    bound: Float = roundings * UNIT_ROUNDOFF / (1 - roundings * UNIT_ROUNDOFF) * (magnitudes + 0.5)
    return bound


def _near_half(sums: Float, error: Float) -> Mask:
    shifted = sums + 0.5
    near: Mask = np.abs(shifted - np.rint(shifted)) <= error
    return near


def _dense(taps: Taps) -> Float:
    """``(outputs, inputs)`` weights."""
    matrix = np.zeros((len(taps.first), taps.source))
    for row, first, weights in zip(matrix, taps.first, taps.weights, strict=True):
        row[first : first + len(weights)] = weights[: taps.source - first]
    return matrix
