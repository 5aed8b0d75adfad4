"""Timing of calls: warm-up, turns, and raw samples of which nothing is clipped."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.prediction import StageTimes
from vitedge.progress import Progress

TimedCall: TypeAlias = Callable[[], StageTimes]
Clock: TypeAlias = Callable[[], int]

NANOSECONDS = 1_000_000_000
ROUNDS = 20
LEAST_CALLS = 10
SETTLING_CALLS = 3
"""Calls after each change of turns that are not counted: they find the weights of the other bundle in the caches."""
WINDOW_SECONDS = 0.5
WINDOWS = 3
TOLERANCE = 0.02


@dataclass(frozen=True)
class Samples:
    """Raw times of calls; each attribute is a ``(calls,)`` array.

    Attributes:
        begun: start on the monotonic clock, int64 nanoseconds.
        total: duration, int64 nanoseconds.
        preprocess: milliseconds of that stage, float64.
        infer: milliseconds of that stage, float64.
        postprocess: milliseconds of that stage, float64.
    """

    begun: NDArray[np.int64]
    total: NDArray[np.int64]
    preprocess: NDArray[np.float64]
    infer: NDArray[np.float64]
    postprocess: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.total)

    @property
    def milliseconds(self) -> NDArray[np.float64]:
        """Return the durations in milliseconds, unrounded."""
        return self.total / 1e6

    @property
    def drift(self) -> float:
        """Return the median of the last third of the calls over the first third, minus 1; 0 for fewer than 3 calls."""
        third = len(self) // 3
        return float(np.median(self.total[-third:]) / np.median(self.total[:third])) - 1 if third else 0.0


@dataclass(frozen=True)
class WarmUp:
    """Calls that were made before any was counted.

    Attributes:
        iterations: number of calls.
        settled: whether the medians of the last windows agreed before the time limit.
    """

    iterations: int
    settled: bool


def time_calls(
    call: TimedCall, *, seconds: float, at_least: int = LEAST_CALLS, clock: Clock = time.perf_counter_ns
) -> Samples:
    """Time calls, one after the other, for a number of seconds and at least a number of times."""
    begun, total = array("q"), array("q")
    stages = (array("d"), array("d"), array("d"))
    started = before = clock()
    while before - started < seconds * NANOSECONDS or len(total) < at_least:
        before = clock()
        times = call()
        after = clock()
        begun.append(before)
        total.append(after - before)
        for column, value in zip(stages, (times.preprocess, times.infer, times.postprocess), strict=True):
            column.append(value)
        before = after
    return Samples(np.array(begun), np.array(total), *(np.array(column) for column in stages))


def warm_up(call: TimedCall, *, limit: float, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until the medians of the last three windows of half a second lie within 2 % of each other.

    Args:
        call: the call to warm up.
        limit: seconds after which it ends, settled or not.
        clock: returns nanoseconds.
    """
    started, iterations, medians = clock(), 0, array("d")
    while not settled(medians):
        if clock() - started >= limit * NANOSECONDS:
            return WarmUp(iterations, settled=False)
        window = time_calls(call, seconds=min(WINDOW_SECONDS, limit / (2 * WINDOWS)), clock=clock)
        iterations += len(window)
        medians.append(float(np.median(window.total)))
    return WarmUp(iterations, settled=True)


def settled(medians: Sequence[float]) -> bool:
    """Decide whether the medians of the last three windows lie within 2 % of each other."""
    last = medians[-WINDOWS:]
    return len(last) == WINDOWS and max(last) <= min(last) * (1 + TOLERANCE)


def take_turns(calls: Sequence[TimedCall], seconds: float, progress: Progress) -> list[list[Samples]]:
    """Time several calls that take turns within each round.

    Args:
        calls: the calls to time, already warm.
        seconds: time of each call over all rounds.
        progress: reports every round.

    Returns:
        For each call, its samples of each round.
    """
    taken: list[list[Samples]] = [[] for _ in calls]
    for _ in progress.track(range(ROUNDS), total=ROUNDS, unit="rounds"):
        for call, samples in zip(calls, taken, strict=True):
            samples.append(time_turn(call, seconds=seconds / ROUNDS, settling=SETTLING_CALLS if len(calls) > 1 else 0))
    return taken


def time_turn(call: TimedCall, *, seconds: float, settling: int, clock: Clock = time.perf_counter_ns) -> Samples:
    """Time the calls of one turn, after some that are not counted, in which the caches settle."""
    for _ in range(settling):
        call()
    return time_calls(call, seconds=seconds, clock=clock)


def concatenate(rounds: Sequence[Samples]) -> Samples:
    """Concatenate the samples of several rounds."""
    names = Samples.__dataclass_fields__
    return Samples(**{name: np.concatenate([getattr(each, name) for each in rounds]) for name in names})
