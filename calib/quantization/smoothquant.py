"""SmoothQuant, bounded: channels brought closer together before a product, by a multiplication that its weights undo.

Behind an MLP's activation function a few channels of a few tokens lie far out, and one scale for the whole tensor is
coarse for all others. Multiplying the small channels up to a fraction of the largest makes it finer (the factors of
Xiao et al., "SmoothQuant", 2022, with a bound); how far depends on the layer, as with its range: both are chosen
together, by the outputs of the network.

Small channels are the ones that calibration knows least: of a channel that hardly ever fires, the next image may hold
ten times as much, which a factor turns into a clipped outlier. So a choice is judged on images that its range was
not taken from, among them the images that lie furthest beyond it. Only then it is applied to the range of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer
from vitedge.calib.quantization.layerwise import LayerwiseRun
from vitedge.calib.quantization.observers import ChannelMinMax
from vitedge.calib.quantization.range_search import best_by_outputs, half_furthest
from vitedge.calib.quantization.search_budget import SearchBudget

Floats = NDArray[np.float32]

RATIOS = (1.0, 1.5, 2.5, 5.0)
"""Largest factors that are tried; 1 multiplies nothing."""

MARGINS = (1.0, 0.85, 0.7, 0.5, 1.15, 1.3)
"""Ranges that are tried, in parts of the range seen: clipped below 1, with room for unseen values above."""


@dataclass(frozen=True)
class SmoothQuantizer:
    """Factors of the channels, a quantizer, and division by the factors.

    Attributes:
        factors: of the channels, on the last axis.
        quantizer: of the multiplied channels.
    """

    factors: Floats
    quantizer: Quantizer

    def __call__(self, values: Floats) -> Floats:
        """Give the values as the quantized network sees them."""
        return np.asarray(self.quantizer(values * self.factors) / self.factors)


@dataclass(frozen=True)
class Smoothing:
    """How far channels are brought together, and how much of their range is kept.

    Attributes:
        ratio: the largest factor, at least 1.
        margin: of the range, above 0.
    """

    ratio: float
    margin: float

    def factors(self, found: ChannelMinMax) -> Floats:
        """Give the factors ``(channels,)``: 1 for the channel with the largest values, ``ratio`` at most for others."""
        largest, furthest = found.largest, found.largest.max()
        return np.asarray(furthest / _floored(largest, self.ratio)) if furthest > 0 else np.ones_like(largest)

    def quantizer(self, found: ChannelMinMax, scheme: Scheme) -> SmoothQuantizer:
        """Give the quantizer of channels with this minimum and maximum."""
        factors = self.factors(found)
        low, high = (each * factors * self.margin for each in (found.low, found.high))
        return SmoothQuantizer(factors, activation_quantizer(float(low.min()), float(high.max()), scheme))


def best_smoothing(
    run: LayerwiseRun,
    data: str,
    read: str,
    others: ChannelMinMax,
    tried: int,
    budget: SearchBudget,
    scheme: Scheme,
    negligible: float = 0.0,
) -> Smoothing:
    """Choose the smoothing with the smallest squared error of the network's outputs.

    Args:
        run: at the first reader.
        data: the tensor, channels on its last axis.
        read: the name by which its readers take it.
        others: minimum and maximum over images that are not tried.
        tried: how many of the run's first images choices may be tried on.
        budget: on how many of them choices are tried.
        scheme: the kind of quantizer.
        negligible: as in ``best_by_outputs``, for channels and a range as they are.
    """
    smoothings = [Smoothing(*each) for each in product(RATIOS, MARGINS)]
    quantizers = [each.quantizer(others, scheme) for each in smoothings]
    beyond = [_beyond(run.values[image][data], others) for image in range(tried)]
    few, many = (half_furthest(beyond, count) for count in (budget.first, budget.images))
    return smoothings[best_by_outputs(run, data, read, quantizers, few, many, negligible)]


def _beyond(values: Floats, others: ChannelMinMax) -> float:
    """Return the largest ratio of a channel's magnitude to its magnitude in other images."""
    reach = ChannelMinMax.of(values, -1).largest
    return float((reach / np.maximum(_floored(others.largest, RATIOS[-1]), np.finfo(np.float32).tiny)).max())


def _floored(reach: Floats, ratio: float) -> Floats:
    """Raise magnitudes that are more than ``ratio`` times smaller than the largest."""
    return np.asarray(np.maximum(reach, reach.max() / np.float32(ratio)))
