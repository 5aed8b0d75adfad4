"""Equalization of the channels before convolutions, so that a single scale serves them all.

A multiplication of the channels does it, and the weights of the convolutions undo it (the cross-layer equalization of
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019). It pays where the engine
fuses the multiplication into the operator before: an activation function, a convolution, a residual addition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.layernorm_equalization import best_equalization, without_dead
from vitedge.calib.quantization.validation_rows import ValidationRows

LARGEST_FACTOR = 100.0
"""Of one channel to another: calibration may hardly have seen a channel, and other images hold more of it."""


@dataclass(frozen=True)
class ChannelScale:
    """Divisors of the channels; the weights are multiplied in return.

    Attributes:
        scale: for the ranges of all images, ``(channels,)``.
        judged: for the ranges of the images that a choice is not judged on.
    """

    scale: NDArray[np.float64]
    judged: NDArray[np.float64]


def best_channel_scale(
    rows: ValidationRows,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    weight: NDArray[np.float64],
    scheme: Scheme,
    *,
    groups: int,
) -> ChannelScale:
    """Choose the divisors of the channels.

    A channel of a depthwise convolution has outputs of its own, whose weight scales compensate everything: the channels
    are brought to exactly one range. Elsewhere, also within the groups of a grouped convolution, the weights become
    coarser, and the outputs of the layers decide how far the channels are equalized.

    Args:
        rows: some of the activations.
        low: smallest value of each channel in all images, ``(channels,)``.
        high: largest.
        weight: of all readers, by input channel, ``(·, channels)``; only the weights of its own group.
        scheme: the kind of quantizer.
        groups: of the readers.
    """
    if groups == len(low):
        return ChannelScale(
            *(_bounded(without_dead(np.maximum(-ends[0], ends[1]))) for ends in ((low, high), (rows.low, rows.high)))
        )
    best = best_equalization(rows, low, high, weight, scheme, shifted=False, groups=groups)
    return ChannelScale(_bounded(best.equalization.scale), _bounded(best.judged.scale))


def _bounded(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(scale, scale.max() / LARGEST_FACTOR))
