"""Range search: the range of an activation, chosen by what it does to the outputs of the network.

An error is not worth the same everywhere: a clipped token that nothing attends to costs nothing, a clipped class token
everything, and no statistic of the tensor alone knows which is which. So each candidate is tried on a few images, with
all layers before it quantized and those behind it in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer
from vitedge.calib.quantization.layerwise import LayerwiseRun
from vitedge.calib.quantization.range_estimators import Histogram, Range, entropy, min_max, mse, percentile
from vitedge.calib.quantization.search_budget import SearchBudget

Floats = NDArray[np.float32]

CLOSE = 4
"""How many of the candidates are tried on more images than the others."""

SHARES = (0.9999, 0.99999)
CLIPS = 0.93 ** np.arange(1, 15)
"""Fractions of the largest magnitude that are tried, 0.93 to 0.36. The error is no smooth function of them: it matters
which values near 0, where most of them lie, a level falls on."""

FLOAT8_RANGES = 2.0 ** (-np.arange(1, 8) / 8)
"""Parts of the range with its headroom; behind one octave the levels repeat."""


def candidates(histogram: Histogram, scheme: Scheme) -> tuple[Range, ...]:
    """Give all ranges that are tried, each once; the range of all values comes first.

    For float8 they differ in the levels that the values fall on, and in the room for larger values, from 4 to 2.2
    times the largest: nothing is clipped, because a float8 level is as fine for a small value as for a large one.
    """
    whole = min_max(histogram)
    if scheme is Scheme.FLOAT8:
        return (whole, *(whole.clipped(float(each)) for each in FLOAT8_RANGES if whole.high > whole.low))
    suggested = [percentile(histogram, share) for share in SHARES]
    suggested += [mse(histogram), entropy(histogram), *(whole.clipped(float(clip)) for clip in CLIPS)]
    return tuple(dict.fromkeys([whole, *(each for each in suggested if each.high > each.low)]))


def best_quantizer(
    run: LayerwiseRun, data: str, read: str, histogram: Histogram, budget: SearchBudget, scheme: Scheme
) -> Quantizer:
    """Choose the quantizer with the smallest squared error of the network's outputs.

    Args:
        run: at the first reader.
        data: the tensor.
        read: the name by which its readers take it.
        histogram: of the tensor, over all images.
        budget: on how many of the run's images.
        scheme: the kind of quantizer.
    """
    ranges = candidates(histogram, scheme)
    quantizers = tuple(dict.fromkeys(activation_quantizer(each.low, each.high, scheme) for each in ranges))
    if len(quantizers) == 1:
        return quantizers[0]
    images = min(budget.images, len(run.values))
    return quantizers[best_by_outputs(run, data, read, quantizers, range(min(budget.first, images)), range(images))]


def best_by_outputs(
    run: LayerwiseRun,
    data: str,
    read: str,
    choices: Sequence[Callable[[Floats], Floats]],
    few: Sequence[int],
    many: Sequence[int],
) -> int:
    """Find the choice that leaves the network's outputs with the smallest squared error; returns its position.

    Args:
        run: at the first reader.
        data: the tensor.
        read: the name by which its readers take it.
        choices: changes of the tensor.
        few: positions of the images that all are tried on.
        many: positions of the images that the closest choices are tried on.
    """
    outputs_with = run.rest(data, read)

    def tried(positions: Sequence[int], images: Sequence[int]) -> list[int]:
        """Sort choices by the error of the outputs, the closest first."""
        reference = outputs_with(_unchanged, images)

        def error(position: int) -> float:
            found = float(np.square(outputs_with(choices[position], images) - reference, dtype=np.float64).sum())
            return found if np.isfinite(found) else np.inf

        return sorted(positions, key=error)

    return tried(tried(range(len(choices)), few)[:CLOSE], many)[0]


def _unchanged(values: Floats) -> Floats:
    return values
