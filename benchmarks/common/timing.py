"""Timing of calls for the latency benchmarks."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

Call = Callable[[], object]

TURN_SECONDS = 0.06


def median_ms(call: Call, *, calls: int, settling: int = 3) -> float:
    """Return the median milliseconds of some calls, after other calls that bring the weights back into the caches."""
    for _ in range(settling):
        call()
    spent = []
    for _ in range(calls):
        begun = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - begun)
    return statistics.median(spent) / 1e6


def in_turns(calls: Mapping[str, Call], timed: Callable[[Call], float], *, rounds: int) -> dict[str, list[float]]:
    """Time each call in every round, in random order, after two rounds of warm-up."""
    order, shuffle = list(calls), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        shuffle.shuffle(order)
        for name in order:
            found[name].append(timed(calls[name]))
    return {name: each[2:] for name, each in found.items()}


def turn_ms(call: Call) -> float:
    """Return the median milliseconds over one turn, after two calls that bring the weights back into the caches."""
    spent: list[int] = []
    call()
    begun = time.perf_counter_ns()
    call()
    calls = max(3, round(TURN_SECONDS * 1e9 / (time.perf_counter_ns() - begun)))
    for _ in range(calls):
        begun = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - begun)
    return statistics.median(spent) / 1e6


def compared(times: list[float], others: list[float]) -> tuple[float, float, float, float]:
    """Return the median of the times, and median, 10th and 90th percentile of their ratios to others, by round."""
    ratios = [one / other for one, other in zip(times, others, strict=True)]
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    return statistics.median(times), float(middle), float(low), float(high)
