"""Channels brought closer together before a product, by a multiplication that its weights undo.

Behind an MLP's activation function a few channels of a few tokens lie far out, and one scale for the whole tensor is
coarse for all others. Multiplying the small channels up to a fraction of the largest makes it finer (the factors of
Xiao et al., "SmoothQuant", 2022, with a bound); how far depends on the layer, as with its range: both are chosen
together, by the outputs of the network.

Small channels are the ones that calibration knows least: of a channel that hardly ever fires, the next image may hold
ten times as much, which a factor turns into a clipped outlier. So a choice is judged on images that its extremes were
not taken from, among them those that lie furthest beyond these. Only then it is applied to the extremes of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer
from vitedge.calib.quantization.layerwise import Stream
from vitedge.calib.quantization.observers import Extremes
from vitedge.calib.quantization.range_search import best_by_outputs
from vitedge.calib.quantization.search_budget import Effort

Floats = NDArray[np.float32]

RATIOS = (1.0, 1.5, 2.5, 5.0)
"""Largest factors that are tried; 1 multiplies nothing."""

MARGINS = (1.0, 0.85, 0.7, 0.5, 1.15, 1.3)
"""Ranges that are tried, in parts of that of the extremes: clipped below 1, with room for what was not seen above."""


@dataclass(frozen=True)
class ScaledQuantizer:
    """Factors, a quantizer, and their reverse.

    Attributes:
        factors: of the channels, on the last axis.
        quantizer: of what they make.
    """

    factors: Floats
    quantizer: Quantizer

    def __call__(self, values: Floats) -> Floats:
        """The values as the quantized network sees them."""
        return np.asarray(self.quantizer(values * self.factors) / self.factors)


@dataclass(frozen=True)
class ChannelScaling:
    """How far channels are brought together, and how much of their range is kept.

    Attributes:
        ratio: the largest factor, at least 1.
        margin: of the range, above 0.
    """

    ratio: float
    margin: float

    def factors(self, extremes: Extremes) -> Floats:
        """1 for the channel that reaches furthest, up to ``ratio`` for the others, ``(channels,)``."""
        reach, furthest = extremes.reach, extremes.reach.max()
        return np.asarray(furthest / _floored(reach, self.ratio)) if furthest > 0 else np.ones_like(reach)

    def quantizer(self, extremes: Extremes, scheme: Scheme) -> ScaledQuantizer:
        """For channels of these extremes."""
        factors = self.factors(extremes)
        low, high = (each * factors * self.margin for each in (extremes.low, extremes.high))
        return ScaledQuantizer(factors, activation_quantizer(float(low.min()), float(high.max()), scheme))


def best_channel_scaling(
    stream: Stream, data: str, read: str, others: Extremes, tried: int, effort: Effort, scheme: Scheme
) -> ChannelScaling:
    """The scaling with the smallest squared error of the network's outputs.

    Args:
        stream: at the first reader.
        data: the tensor, channels on its last axis.
        read: the name by which its readers take it.
        others: extremes over images that are not tried.
        tried: how many of the stream's first images are.
        effort: on how many of these at once.
        scheme: the kind of quantizer.
    """
    scalings = [ChannelScaling(*each) for each in product(RATIOS, MARGINS)]
    quantizers = [each.quantizer(others, scheme) for each in scalings]
    beyond = [_beyond(stream.values[image][data], others) for image in range(tried)]
    few, many = (half_furthest(beyond, count) for count in (effort.first, effort.images))
    return scalings[best_by_outputs(stream, data, read, quantizers, few, many)]


def half_furthest(beyond: Sequence[float], count: int) -> tuple[int, ...]:
    """Positions of some images, half of them those that are the furthest beyond, the others the first of the rest.

    Args:
        beyond: how far each is.
        count: how many; all if there are fewer.
    """
    furthest = sorted(range(len(beyond)), key=lambda image: -beyond[image])[: count // 2]
    rest = [image for image in range(len(beyond)) if image not in furthest]
    return (*furthest, *rest[: count - len(furthest)])


def _beyond(values: Floats, others: Extremes) -> float:
    """The largest value of any channel, in parts of what the channel held in other images."""
    reach = Extremes.of(values, -1).reach
    return float((reach / np.maximum(_floored(others.reach, RATIOS[-1]), np.finfo(np.float32).tiny)).max())


def _floored(reach: Floats, ratio: float) -> Floats:
    """Without channels that are more than ``ratio`` times smaller than the largest."""
    return np.asarray(np.maximum(reach, reach.max() / np.float32(ratio)))
