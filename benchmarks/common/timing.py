"""Timing of calls for the latency benchmarks."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Call = Callable[[], object]

TURN_SECONDS = 0.06
MOST_LOAD = 1.5
"""Load, for each thread of a benchmark, above which a round does not count."""
DISCARDED_FOR_EACH = 3
"""Rounds that may be thrown away for each that counts."""
PAUSE_SECONDS = 10.0
LARGEST_CONTRADICTION = 1.05
"""Factor between the ratio of two medians and the median of the rounds' ratios, above which they contradict."""


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
    shuffle = random.Random(0)
    taken = [_round(calls, timed, shuffle) for _ in range(rounds + 2)][2:]
    return {name: [each[name] for each in taken] for name in calls}


def _round(calls: Mapping[str, Call], timed: Callable[[Call], float], shuffle: random.Random) -> dict[str, float]:
    order = list(calls)
    shuffle.shuffle(order)
    return {name: timed(calls[name]) for name in order}


class BusyMachineError(Exception):
    """Too many rounds were thrown away, because other programs were running."""

    def __init__(self, discarded: int, most_load: float) -> None:
        super().__init__(f"{discarded} rounds had a load above {most_load:.1f}")
        self.discarded = discarded


@dataclass(frozen=True)
class QuietTurns:
    """Times of rounds in which no other program took much.

    Attributes:
        times: of each call, by round.
        discarded: number of rounds that were thrown away.
    """

    times: Mapping[str, list[float]]
    discarded: int


def in_quiet_turns(
    calls: Mapping[str, Call],
    timed: Callable[[Call], float],
    *,
    rounds: int,
    most_load: float,
    load: Callable[[], float] = lambda: os.getloadavg()[0],
    wait: Callable[[float], object] = time.sleep,
) -> QuietTurns:
    """Time as ``in_turns`` does, and repeat each round before or after which the load is too high.

    Args:
        calls: by name.
        timed: returns the milliseconds of a call.
        rounds: number of rounds that count.
        most_load: largest load average of the last minute.
        load: reads it.
        wait: pauses after a round that was thrown away.

    Raises:
        BusyMachineError: more rounds were thrown away than may be.
    """
    shuffle, kept, discarded = random.Random(0), list[dict[str, float]](), 0
    for _ in range(2):
        _round(calls, timed, shuffle)
    while len(kept) < rounds:
        before = load()
        taken = _round(calls, timed, shuffle)
        if max(before, load()) <= most_load:
            kept.append(taken)
            continue
        discarded += 1
        if discarded > DISCARDED_FOR_EACH * rounds:
            raise BusyMachineError(discarded, most_load)
        wait(PAUSE_SECONDS)
    return QuietTurns({name: [each[name] for each in kept] for name in calls}, discarded)


def contradiction(times: Sequence[float], others: Sequence[float]) -> str:
    """Say that the medians of two series, and the median of their ratios by round, disagree; empty if they agree."""
    if not times or not others:
        return ""
    medians = statistics.median(times) / statistics.median(others)
    by_round = statistics.median([one / other for one, other in zip(times, others, strict=True)])
    if max(medians / by_round, by_round / medians) <= LARGEST_CONTRADICTION:
        return ""
    return f"the medians give a ratio of {medians:.2f}, the rounds one of {by_round:.2f}"


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
