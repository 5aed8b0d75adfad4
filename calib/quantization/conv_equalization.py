"""Equalization of the channels before convolutions, so that a single scale serves them all.

A multiplication of the channels does it, and the weights of the convolutions undo it (the cross-layer equalization of
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019). It pays where the engine
fuses the multiplication into the operator before: an activation function, a convolution, a residual addition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.layernorm_equalization import best_equalization, without_dead

LARGEST_FACTOR = 100.0
"""Of one channel to another: calibration may hardly have seen a channel, and other images hold more of it."""


def best_channel_scale(
    rows: NDArray[np.float32],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    weight: NDArray[np.float64],
    scheme: Scheme,
    *,
    groups: int,
) -> NDArray[np.float64]:
    """Choose the divisors of the channels, ``(channels,)``; the weights are multiplied in return.

    A channel of a depthwise convolution has outputs of its own, whose weight scales compensate everything: the channels
    are brought to exactly one range. Elsewhere, also within the groups of a grouped convolution, the weights become
    coarser, and the outputs of the layers decide how far the channels are equalized.

    Args:
        rows: some of the activations, ``(rows, channels)``.
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, by input channel, ``(·, channels)``; those of its own group.
        scheme: the kind of quantizer.
        groups: of the readers.
    """
    if groups == len(low):
        scale = without_dead(np.maximum(-low, high))
    else:
        scale = best_equalization(rows, low, high, weight, scheme, shifted=False, groups=groups)[0].scale
    return np.asarray(np.maximum(scale, scale.max() / LARGEST_FACTOR))
