"""The ratio of two latencies, and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vitedge.runtime.bench.timing import Samples

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Ratio of the latencies of two bundles.

    Attributes:
        p50: median over the rounds of (p50 of the first bundle / p50 of the second one in that round).
        low: lower bound of the confidence interval of ``p50``.
        high: upper bound of the confidence interval of ``p50``.
        confidence: actual coverage of the interval, 0…1: ``CONFIDENCE`` or more, unless the rounds are too few.
        rounds: the ratio of each round, in order.
    """

    p50: float
    low: float
    high: float
    confidence: float
    rounds: tuple[float, ...] = field(repr=False)

    @property
    def stated_confidence(self) -> float:
        """Return the stated confidence in percent: 95, or the coverage if too few rounds fall short."""
        return 100 * min(self.confidence, CONFIDENCE)


def paired_ratio(rounds: Sequence[Samples], others: Sequence[Samples]) -> Ratio:
    """Compare two bundles round by round.

    The interval lies between two order statistics of the rounds' ratios. It assumes only that the rounds are
    independent, nothing about their distribution (David and Nagaraja, Order Statistics, 2003, 7.1).
    """
    ratios = [float(np.median(one.total) / np.median(other.total)) for one, other in zip(rounds, others, strict=True)]
    rank, confidence = median_interval_rank(len(ratios))
    low, high = np.sort(ratios)[[rank - 1, -rank]]
    return Ratio(float(np.median(ratios)), float(low), float(high), confidence, tuple(ratios))


def median_interval_rank(count: int, confidence: float = CONFIDENCE) -> tuple[int, float]:
    """Return the largest k for which the k-th smallest and k-th largest of ``count`` values enclose the median.

    Returns:
        k, and the probability that they enclose it, which is at least ``confidence``; if even the extremes fall short
        of that, k is 1.
    """
    rank, tail = 1, 0.5**count
    while rank < (count + 1) // 2:
        wider = tail + math.comb(count, rank) * 0.5**count
        if 1 - 2 * wider < confidence:
            break
        rank, tail = rank + 1, wider
    return rank, max(0.0, 1 - 2 * tail)
