"""Histograms of activations, and the ranges that they suggest for a quantizer.

``min_max`` clips nothing, ``percentile`` a fixed share, ``mse`` as much as lowers the mean squared error, ``entropy``
as much as keeps the distribution (Migacz, "8-bit Inference with TensorRT", 2017). No one of them is the best
everywhere: they are candidates, and the network's outputs decide (``range_search``).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048
LEVELS = 256
SAMPLED = 1 << 14
"""Number of values that are counted at a time, evenly spread over the given ones and over their channels."""

CLIPS = np.linspace(1.0, 0.1, 91)
"""Fractions of the largest magnitude that ``mse`` and ``entropy`` try."""


@dataclass(frozen=True)
class Range:
    """Where values lie that a quantizer must tell apart; ``low`` ≤ 0 ≤ ``high``."""

    low: float
    high: float

    def clipped(self, fraction: float) -> Range:
        """Clip the range to a fraction of its largest magnitude."""
        limit = fraction * max(-self.low, self.high)
        return Range(max(self.low, -limit), min(self.high, limit))

    def widened(self, factor: float) -> Range:
        """Widen the range by a factor."""
        return Range(factor * self.low, factor * self.high)


@dataclass
class Histogram:
    """Counts in bins of equal width, of memory that does not grow: the bins double their width when values demand it.

    Attributes:
        counts: ``(BINS,)``; bin ``i`` holds ``[(i − BINS/2)·width, (i + 1 − BINS/2)·width)``.
        width: a power of two; 0 before the first value that is not 0.
        low: smallest value so far, at most 0.
        high: largest value so far, at least 0.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    width: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in finite values of any shape: the smallest and largest of all, the counts of ``SAMPLED`` of them."""
        self.add_sample(sampled(values), float(values.min()), float(values.max()))

    def add_sample(self, counted: NDArray[np.float32], low: float, high: float) -> None:
        """Take in the counts of some values ``(values,)``, and the smallest and the largest of all."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        peak = max(-self.low, self.high)
        if peak == 0.0:
            self.counts[BINS // 2] += counted.size
            return
        if self.width == 0.0:
            self.width = 2.0 ** np.floor(np.log2(peak * 2 / BINS))
        while peak >= self.width * (BINS // 2):
            self._double()
        places = np.floor(counted.astype(np.float64) / self.width).astype(np.int64) + BINS // 2
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return the middle of each bin, ``(BINS,)``."""
        return np.asarray((np.arange(BINS) - BINS // 2 + 0.5) * self.width, dtype=np.float64)

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
        self.width *= 2


def sampled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take ``SAMPLED`` values; their distance and the size have no common divisor, so that every channel is sampled."""
    size = values.size
    stride = next(stride for stride in itertools.count(max(1, size // SAMPLED)) if math.gcd(stride, size) == 1)
    return values.ravel()[::stride]


def min_max(histogram: Histogram) -> Range:
    """Give the range of all values seen."""
    return Range(histogram.low, histogram.high)


def percentile(histogram: Histogram, share: float) -> Range:
    """Give the range of the middle ``share`` of the values, 0…1: as many are clipped below as above."""
    passed = np.cumsum(histogram.counts)
    tail = (1.0 - share) / 2 * passed[-1]
    first = int(np.searchsorted(passed, tail, side="right"))
    last = int(np.searchsorted(passed, passed[-1] - tail, side="left"))
    edges = (np.array([first, last + 1]) - BINS // 2) * histogram.width
    return Range(min(0.0, max(edges[0], histogram.low)), max(0.0, min(edges[1], histogram.high)))


def mse(histogram: Histogram) -> Range:
    """Give the clipped range with the smallest mean squared error of 256 levels."""
    whole = min_max(histogram)
    return min((whole.clipped(float(clip)) for clip in CLIPS), key=lambda each: _squared_error(histogram, each))


def entropy(histogram: Histogram) -> Range:
    """Give the clipped range whose 256 levels keep the distribution best, by the Kullback-Leibler divergence."""
    whole = min_max(histogram)
    return min((whole.clipped(float(clip)) for clip in CLIPS), key=lambda each: _divergence(histogram, each))


def _squared_error(histogram: Histogram, limits: Range) -> float:
    values = histogram.centers
    step = (limits.high - limits.low) / (LEVELS - 1)
    if step == 0.0:
        return float(histogram.counts @ values**2)
    clipped = np.clip(values, limits.low, limits.high)
    noise = np.where(values == clipped, step**2 / 12, 0.0)
    return float(histogram.counts @ ((values - clipped) ** 2 + noise))


def _divergence(histogram: Histogram, limits: Range) -> float:
    """Compute the divergence of the clipped distribution from its quantized form, in nats.

    Clipped mass counts at the ends of the range.
    """
    inside = (histogram.centers >= limits.low) & (histogram.centers <= limits.high)
    counts = histogram.counts[inside].astype(np.float64)
    if counts.size <= LEVELS:
        return np.inf if counts.sum() < histogram.counts.sum() else 0.0
    level = np.arange(counts.size) * LEVELS // counts.size
    filled = counts > 0
    coarse = np.bincount(level, counts, LEVELS) / np.maximum(np.bincount(level, filled, LEVELS), 1)
    spread = np.where(filled, coarse[level], 0.0)
    whole = counts.copy()
    whole[0] += histogram.counts[histogram.centers < limits.low].sum()
    whole[-1] += histogram.counts[histogram.centers > limits.high].sum()
    given, approximate = whole / whole.sum(), spread / max(spread.sum(), 1e-300)
    seen = given > 0
    return float(np.sum(given[seen] * np.log(given[seen] / np.maximum(approximate[seen], 1e-12))))
