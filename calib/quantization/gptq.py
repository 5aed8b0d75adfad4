"""GPTQ rounding: each weight's rounding error is compensated by the weights that are not rounded yet.

The errors are weighed by the activations that the layer really reads, with everything before it quantized (Frantar et
al., "GPTQ", 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Levels, round_weights
from vitedge.calib.quantization.graph_parts import Values
from vitedge.calib.quantization.grid import Grid
from vitedge.calib.quantization.im2col import im2col, supports_im2col
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.graph.layers import Layer

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: directions that the calibration images never excite count a little."""

BLOCK = 64
"""Channels that are updated one by one; all behind them are updated at once."""


def round_layer(
    layer: Layer, weight: NDArray[np.float64], scales: NDArray[np.float32], images: Sequence[Values], grid: Grid
) -> Levels:
    """Round a layer's weights, ``(out, in / groups · kernel)``.

    A convolution that im2col does not know is rounded to the nearest levels.

    Args:
        layer: reads its quantized data already.
        weight: to round, of the shape of the levels.
        scales: of the output channels, ``(out,)``.
        images: the values of each, among them the layer's data.
        grid: the levels.
    """
    if layer.operator == "Conv" and not supports_im2col(layer.node, layer.weight_shape):
        return round_weights(weight, scales, grid)
    grams = _grams(layer, images)
    groups = len(grams)
    rounded = gptq_round(weight.reshape(groups, -1, weight.shape[1]), scales.reshape(groups, -1), grams, grid)
    return rounded.reshape(weight.shape)


def _grams(layer: Layer, images: Sequence[Values]) -> NDArray[np.float64]:
    """Compute ``XᵀX`` of the inputs of each group of weights, ``(groups, in, in)``."""
    shape, read = layer.weight_shape, str(layer.data.name)

    def gram(values: Values) -> NDArray[np.float32]:
        data = values[read]
        rows = im2col(layer.node, shape, data) if layer.operator == "Conv" else data.reshape(1, -1, data.shape[-1])
        return np.asarray(rows.transpose(0, 2, 1) @ rows)

    grams = parallel_map(gram, images)
    total = next(grams).astype(np.float64)
    for each in grams:
        total += each
    return total


def gptq_round(
    weight: NDArray[np.float64], scales: NDArray[np.float32], gram: NDArray[np.float64], grid: Grid
) -> Levels:
    """Round weights to levels ``(…, out, in)`` whose errors cancel in the layer's output.

    Input channel by input channel, the error of rounding is handed on to the channels not rounded yet, in the way that
    changes the output least (algorithm 1, with its lazy updates of blocks; channels in falling order of their energy).

    Args:
        weight: ``(…, out, in)``; the groups of a convolution come first.
        scales: of the output channels, ``(…, out)``.
        gram: ``XᵀX`` of the layer's inputs, ``(…, in, in)``.
        grid: the levels.
    """
    order = np.argsort(-_diagonal(gram), axis=-1, kind="stable")
    rows, columns = order[..., :, np.newaxis], order[..., np.newaxis, :]
    inverse = _inverse_factor(np.take_along_axis(np.take_along_axis(gram, rows, -2), columns, -1))
    left = np.take_along_axis(weight, columns, -1).swapaxes(-1, -2).copy()
    steps, levels = scales.astype(np.float64), np.empty_like(left)
    for begin in range(0, left.shape[-2], BLOCK):
        block, behind = slice(begin, begin + BLOCK), slice(begin + BLOCK, None)
        levels[..., block, :], errors = _round_block(left[..., block, :], inverse[..., block, block], steps, grid)
        left[..., behind, :] -= inverse[..., block, behind].swapaxes(-1, -2) @ errors
    restored = np.empty(levels.shape, grid.dtype)
    np.put_along_axis(restored, rows, levels.astype(grid.dtype), -2)
    return np.ascontiguousarray(restored.swapaxes(-1, -2))


def _round_block(
    left: NDArray[np.float64], inverse: NDArray[np.float64], steps: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Round some input channels; the errors for the channels behind them are collected, for one product of matrices.

    Args:
        left: weights ``(…, channels, out)``; changed in place.
        inverse: the part of the triangular factor between these channels, ``(…, channels, channels)``.
        steps: scales ``(…, out)``.
        grid: the levels.

    Returns:
        Levels and errors, ``(…, channels, out)``.
    """
    levels, errors = np.empty_like(left), np.empty_like(left)
    for channel in range(left.shape[-2]):
        row, weight = inverse[..., channel, :], left[..., channel, :]
        level = grid.nearest(weight / steps)
        error = (weight - level * steps) / row[..., channel, np.newaxis]
        left[..., channel + 1 :, :] -= row[..., channel + 1 :, np.newaxis] * error[..., np.newaxis, :]
        levels[..., channel, :], errors[..., channel, :] = level, error
    return levels, errors


def _inverse_factor(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the upper triangular Cholesky factor of the damped inverse, ``(…, in, in)``.

    It is the inverse of the lower factor of the matrix itself, with all rows and columns in the opposite order.
    """
    energy = _diagonal(gram).mean(axis=-1)
    damping = np.where(energy > 0, DAMPING * energy, 1.0)[..., np.newaxis, np.newaxis]
    damped = gram + damping * np.eye(gram.shape[-1])
    lower = np.asarray(np.linalg.cholesky(damped[..., ::-1, ::-1]), dtype=np.float64)
    return _lower_inverse(lower)[..., ::-1, ::-1]


def _lower_inverse(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert lower triangular matrices ``(…, in, in)``, a half at a time: NumPy has no triangular solver."""
    half = lower.shape[-1] // 2
    if half < BLOCK:
        return np.tril(np.linalg.inv(lower))
    inverse = np.zeros_like(lower)
    first, second = slice(None, half), slice(half, None)
    for part in (first, second):
        inverse[..., part, part] = _lower_inverse(lower[..., part, part])
    inverse[..., second, first] = -inverse[..., second, second] @ (
        lower[..., second, first] @ inverse[..., first, first]
    )
    return inverse


def _diagonal(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(gram, axis1=-2, axis2=-1)
