"""GPTQ rounding: each weight's rounding error is compensated by the weights that are not rounded yet.

The errors are weighed by the activations that the layer really reads, with everything before it quantized (Frantar et
al., "GPTQ", 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Levels, round_weights
from vitedge.calib.quantization.grid import Grid
from vitedge.calib.quantization.im2col import im2col, supports_im2col
from vitedge.calib.quantization.layerwise import Values
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
    groups = zip(np.split(weight, len(grams)), np.split(scales, len(grams)), grams, strict=True)
    return np.concatenate([gptq_round(*group, grid) for group in groups])


def _grams(layer: Layer, images: Sequence[Values]) -> NDArray[np.float64]:
    """``XᵀX`` of the inputs of each group of weights, ``(groups, in, in)``."""
    shape, read = layer.weight_shape, str(layer.data.name)

    def gram(values: Values) -> NDArray[np.float64]:
        data = values[read]
        rows = im2col(layer.node, shape, data) if layer.operator == "Conv" else data.reshape(1, -1, data.shape[-1])
        return np.asarray(rows.transpose(0, 2, 1) @ rows, dtype=np.float64)

    return sum(parallel_map(gram, images), start=np.zeros(()))


def gptq_round(
    weight: NDArray[np.float64], scales: NDArray[np.float32], gram: NDArray[np.float64], grid: Grid
) -> Levels:
    """Round weights to levels ``(out, in)`` whose errors cancel in the layer's output.

    Input channel by input channel, the error of rounding is handed on to the channels not rounded yet, in the way that
    changes the output least (algorithm 1, with its lazy updates of blocks; channels in falling order of their energy).

    Args:
        weight: ``(out, in)``.
        scales: of the output channels, ``(out,)``.
        gram: ``XᵀX`` of the layer's inputs, ``(in, in)``.
        grid: the levels.
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    inverse = _inverse_factor(gram[np.ix_(order, order)])
    left, steps = weight[:, order].T.copy(), scales.astype(np.float64)
    levels = np.empty(left.shape, grid.dtype)
    for begin in range(0, len(left), BLOCK):
        block = slice(begin, begin + BLOCK)
        levels[order[block]], errors = _round_block(left[block], inverse[block, block], steps, grid)
        left[begin + BLOCK :] -= inverse[block, begin + BLOCK :].T @ errors
    return np.ascontiguousarray(levels.T)


def _round_block(
    left: NDArray[np.float64], inverse: NDArray[np.float64], steps: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Round some input channels; the errors for the channels behind them are collected, for one product of matrices.

    Args:
        left: weights ``(channels, out)``; changed in place.
        inverse: the part of the triangular factor between these channels.
        steps: scales ``(out,)``.
        grid: the levels.

    Returns:
        Levels and errors, ``(channels, out)``.
    """
    levels, errors = np.empty_like(left), np.empty_like(left)
    for channel, row in enumerate(inverse):
        levels[channel] = grid.nearest(left[channel] / steps)
        errors[channel] = (left[channel] - levels[channel] * steps) / row[channel]
        left[channel + 1 :] -= np.outer(row[channel + 1 :], errors[channel])
    return levels, errors


def _inverse_factor(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangular Cholesky factor of the damped inverse, ``(in, in)``."""
    energy = float(np.diag(gram).mean())
    damped = gram + (DAMPING * energy if energy > 0 else 1.0) * np.eye(len(gram))
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
