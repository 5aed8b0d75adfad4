"""The range of an activation, chosen by what it does to the outputs of the network.

An error is not worth the same everywhere: a clipped token that nothing attends to costs nothing, a clipped class token
everything, and no statistic of the tensor alone knows which is which. So each candidate is tried on a few images, with
all layers before it quantized and those behind it in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer
from vitedge.calib.quantization.layerwise import Stream
from vitedge.calib.quantization.range_estimators import Histogram, Range, entropy, min_max, mse, percentile
from vitedge.calib.quantization.search_budget import Effort

Floats = NDArray[np.float32]

CLOSE = 4
"""How many of the candidates are tried on more images than the others."""

SHARES = (0.9999, 0.99999)
CLIPS = 0.93 ** np.arange(1, 15)
"""Fractions of the largest magnitude that are tried, 0.93 to 0.36. The error is no smooth function of them: it matters
which values near 0, where most of them lie, a level falls on."""


def candidates(histogram: Histogram) -> tuple[Range, ...]:
    """All ranges that are tried, each once; that of all values comes first."""
    whole = min_max(histogram)
    suggested = [percentile(histogram, share) for share in SHARES]
    suggested += [mse(histogram), entropy(histogram), *(whole.clipped(float(clip)) for clip in CLIPS)]
    return tuple(dict.fromkeys([whole, *(each for each in suggested if each.high > each.low)]))


def best_quantizer(
    stream: Stream, data: str, read: str, histogram: Histogram, effort: Effort, scheme: Scheme
) -> Quantizer:
    """The quantizer with the smallest squared error of the network's outputs.

    Args:
        stream: at the first reader.
        data: the tensor.
        read: the name by which its readers take it.
        histogram: of the tensor, over all images.
        effort: on how many of the stream's images.
        scheme: the kind of quantizer.
    """
    ranges = candidates(histogram)
    quantizers = tuple(dict.fromkeys(activation_quantizer(each.low, each.high, scheme) for each in ranges))
    if len(quantizers) == 1:
        return quantizers[0]
    images = min(effort.images, len(stream.values))
    return quantizers[best_by_outputs(stream, data, read, quantizers, range(min(effort.first, images)), range(images))]


def best_by_outputs(
    stream: Stream,
    data: str,
    read: str,
    choices: Sequence[Callable[[Floats], Floats]],
    few: Sequence[int],
    many: Sequence[int],
) -> int:
    """Position of the choice that leaves the network's outputs with the smallest squared error.

    Args:
        stream: at the first reader.
        data: the tensor.
        read: the name by which its readers take it.
        choices: what is made of the tensor.
        few: positions of the images that all are tried on.
        many: of those that the closest are tried on.
    """
    finished = stream.finisher(data, read)

    def tried(positions: Sequence[int], images: Sequence[int]) -> list[int]:
        """The closest first."""
        reference = finished(_as_it_is, images)

        def error(position: int) -> float:
            found = float(np.square(finished(choices[position], images) - reference, dtype=np.float64).sum())
            return found if np.isfinite(found) else np.inf

        return sorted(positions, key=error)

    return tried(tried(range(len(choices)), few)[:CLOSE], many)[0]


def _as_it_is(values: Floats) -> Floats:
    return values
