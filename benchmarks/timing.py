"""What the latency benchmarks time a call with."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]


def median_ms(call: Call, *, calls: int, settling: int = 3) -> float:
    """Median milliseconds of ``calls`` calls, after ``settling`` ones that bring the weights back into the caches."""
    for _ in range(settling):
        call()
    spent = []
    for _ in range(calls):
        begun = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - begun)
    return statistics.median(spent) / 1e6


def in_turns(calls: Mapping[str, Call], timed: Callable[[Call], float], *, rounds: int) -> dict[str, list[float]]:
    """What ``timed`` finds for each in every round, in an order drawn anew; two rounds before them warm up."""
    order, shuffle = list(calls), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        shuffle.shuffle(order)
        for name in order:
            found[name].append(timed(calls[name]))
    return {name: each[2:] for name, each in found.items()}
