"""What the latency benchmarks time a call with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Call = Callable[[], object]


def median_ms(call: Call, *, calls: int, settling: int) -> float:
    """Median milliseconds of ``calls`` calls, after ``settling`` ones that bring the weights back into the caches."""
    for _ in range(settling):
        call()
    spent = []
    for _ in range(calls):
        begun = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - begun)
    return statistics.median(spent) / 1e6
