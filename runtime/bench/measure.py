"""Latency of bundles on this machine, through the classifier that applications use.

    cold start (fresh process) ─▶ warm-up until stable ─▶ calls, one after the other ─▶ percentiles of raw nanoseconds

With a second bundle both are open at once and their calls alternate in rounds, A B A B …, so that heat, frequency and
other processes meet both alike; the ratio is taken within each round.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle
from vitedge.errors import UsageError
from vitedge.prediction import StageTimes
from vitedge.progress import Progress, Silent
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.load import load
from vitedge.runtime.system.machine import MachineState, machine_state
from vitedge.safety import child

Call: TypeAlias = Callable[[], StageTimes]
Clock: TypeAlias = Callable[[], int]

NANOSECONDS = 1_000_000_000
FRAME_SIZE = (720, 1280)
FRAMES = 4
ROUNDS = 20
LEAST_CALLS = 10
SETTLING_CALLS = 3
"""Calls after each change of bundle that are not counted: they find the other one's weights in the caches."""
WINDOW_SECONDS = 0.5
WINDOWS = 3
TOLERANCE = 0.02
WARM_UP_FACTOR = 2.0
DRIFT_TOLERANCE = 0.05
COLD_START_TIMEOUT = 300.0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Samples:
    """Raw times of calls, one element each.

    Attributes:
        begun: start on the monotonic clock, int64 nanoseconds.
        total: duration, int64 nanoseconds.
        preprocess: float64 milliseconds within the call.
        infer: float64 milliseconds within the call.
        postprocess: float64 milliseconds within the call.
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
        """Durations in milliseconds, unrounded."""
        return self.total / 1e6

    @property
    def drift(self) -> float:
        """Median of the last third of the calls over that of the first, minus 1; 0 if there are fewer than three."""
        third = len(self) // 3
        return float(np.median(self.total[-third:]) / np.median(self.total[:third])) - 1 if third else 0.0


@dataclass(frozen=True)
class WarmUp:
    """Calls that were made before any was counted.

    Attributes:
        iterations: how many.
        settled: whether the medians of the last windows agreed before the time for it ran out.
    """

    iterations: int
    settled: bool


@dataclass(frozen=True)
class ColdStart:
    """A fresh process, from its first import to its first prediction, in milliseconds.

    Attributes:
        import_ms: import of ``vitedge.runtime``.
        load_ms: hashes, import of the engine's library, compilation, self-test if it was not remembered.
        first_ms: the first prediction.
    """

    import_ms: float
    load_ms: float
    first_ms: float

    @property
    def total_ms(self) -> float:
        """Sum of the three."""
        return self.import_ms + self.load_ms + self.first_ms


@dataclass(frozen=True)
class Measurement:
    """One bundle, measured.

    Attributes:
        bundle: its path, as it was given.
        model: name of the model.
        info: what ran, and where.
        warm_up: what went before.
        samples: what was counted.
        cold_start: None if no process could be started for it.
    """

    bundle: str
    model: str
    info: EngineInfo
    warm_up: WarmUp
    samples: Samples = field(repr=False)
    cold_start: ColdStart | None

    @property
    def stable(self) -> bool:
        """Whether latency had settled when counting began, and did not drift while it lasted."""
        return self.warm_up.settled and abs(self.samples.drift) <= DRIFT_TOLERANCE

    @property
    def throughput_fps(self) -> float:
        """Calls per second, one after the other: N calls over the time of N calls."""
        return len(self.samples) * NANOSECONDS / float(self.samples.total.sum())


@dataclass(frozen=True)
class Ratio:
    """Latency of one bundle over that of another.

    Attributes:
        p50: median over the rounds of (p50 of the bundle / p50 of the other one, both in that round).
        low: lower bound of the confidence interval of that median.
        high: upper bound.
        confidence: what the interval really covers, 0…1.
        rounds: the ratio of each round, in their order.
    """

    p50: float
    low: float
    high: float
    confidence: float
    rounds: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Report:
    """What ``vitedge bench`` found.

    Attributes:
        measurement: the bundle.
        against: the other one, or None.
        ratio: of the bundle's latency to the other one's, or None.
        frame_size: (height, width) of the frames in pixels.
        threads: CPU threads asked for, or None.
        machine: its state before the measurement.
    """

    measurement: Measurement
    against: Measurement | None
    ratio: Ratio | None
    frame_size: tuple[int, int]
    threads: int | None
    machine: MachineState


def bench(
    bundle: str | Path,
    *,
    against: str | Path | None = None,
    seconds: float = 10.0,
    engine: str | None = None,
    threads: int | None = None,
    frame_size: tuple[int, int] = FRAME_SIZE,
    progress: Progress = Silent(),  # noqa: B008
) -> Report:
    """Measure one bundle, or two side by side.

    Args:
        bundle: what to measure.
        against: what to compare it with.
        seconds: time for the counted calls of each bundle; warming up may take twice that.
        engine: key in ``vitedge.runtime.engines.base.ENGINES``, for both; by default that of each bundle's target.
        threads: CPU threads to use; by default the engine decides.
        frame_size: (height, width) of the synthetic camera frames in pixels.
        progress: receives the steps.

    Raises:
        UsageError: ``seconds`` is not positive.
        BundleError: a bundle cannot be read.
        EngineError: an engine does not load, run or pass its self-test.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds}", expected="a positive number")
    machine = machine_state()
    frames = synthetic_frames(*frame_size)
    paths = [Path(bundle)] if against is None else [Path(bundle), Path(against)]
    with ExitStack() as stack:
        subjects = [stack.enter_context(_opened(path, frames, engine, threads, progress)) for path in paths]
        warm_ups = [_warmed(subject, seconds * WARM_UP_FACTOR, progress) for subject in subjects]
        progress.step(f"measuring {seconds:g} s{' of each, in turns' if against else ''}")
        rounds = take_turns([subject.call for subject in subjects], seconds, progress)
    measured = [
        Measurement(
            str(subject.path), subject.model, subject.classifier.info, warmed, joined(samples), subject.cold_start
        )
        for subject, warmed, samples in zip(subjects, warm_ups, rounds, strict=True)
    ]
    return Report(
        measurement=measured[0],
        against=measured[1] if against is not None else None,
        ratio=paired_ratio(*rounds) if against is not None else None,
        frame_size=frame_size,
        threads=threads,
        machine=machine,
    )


@dataclass(frozen=True)
class _Subject:
    """A bundle that is open for measurement."""

    path: Path
    model: str
    classifier: Classifier
    frames: Iterator[NDArray[np.uint8]]
    cold_start: ColdStart | None

    def call(self) -> StageTimes:
        """Classify the next frame."""
        return self.classifier.classify(next(self.frames)).stages_ms


@contextmanager
def _opened(
    path: Path, frames: Sequence[NDArray[np.uint8]], engine: str | None, threads: int | None, progress: Progress
) -> Iterator[_Subject]:
    progress.step(f"opening {path}")
    bundle = Bundle.open(path)
    with load(bundle, engine=engine, threads=threads) as classifier:
        progress.step(f"cold start of {path} in a fresh process")
        cold = cold_start(path, frames[0].shape[:2], engine=engine, threads=threads)
        yield _Subject(path, bundle.manifest.model.name, classifier, itertools.cycle(frames), cold)


def _warmed(subject: _Subject, limit: float, progress: Progress) -> WarmUp:
    progress.step(f"warming up {subject.path}, at most {limit:g} s")
    return warm_up(subject.call, limit=limit)


def synthetic_frames(height: int, width: int) -> list[NDArray[np.uint8]]:
    """A few ``height×width×3`` uint8 frames of random texture, as many as a camera's ring of buffers."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(FRAMES)]


def collect(call: Call, *, seconds: float, at_least: int = LEAST_CALLS, clock: Clock = time.perf_counter_ns) -> Samples:
    """Call again and again for so many seconds, and at least so many times."""
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


def warm_up(call: Call, *, limit: float, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until the medians of the last three windows of half a second lie within 2 % of each other.

    Args:
        call: what to warm up.
        limit: seconds after which it ends unsettled.
        clock: nanoseconds.
    """
    started, iterations, medians = clock(), 0, array("d")
    while not settled(medians):
        if clock() - started >= limit * NANOSECONDS:
            return WarmUp(iterations, settled=False)
        window = collect(call, seconds=min(WINDOW_SECONDS, limit / (2 * WINDOWS)), clock=clock)
        iterations += len(window)
        medians.append(float(np.median(window.total)))
    return WarmUp(iterations, settled=True)


def settled(medians: Sequence[float]) -> bool:
    """Whether the last three of the windows' medians lie within 2 % of each other."""
    last = medians[-WINDOWS:]
    return len(last) == WINDOWS and max(last) <= min(last) * (1 + TOLERANCE)


def take_turns(calls: Sequence[Call], seconds: float, progress: Progress) -> list[list[Samples]]:
    """For each of the calls, its samples round by round; the calls take turns within each round.

    Args:
        calls: what to time, warm.
        seconds: for each of them, over all rounds.
        progress: told of every round.
    """
    taken: list[list[Samples]] = [[] for _ in calls]
    for _ in progress.track(range(ROUNDS), total=ROUNDS, unit="rounds"):
        for call, samples in zip(calls, taken, strict=True):
            samples.append(
                interleaved(call, seconds=seconds / ROUNDS, settling=SETTLING_CALLS if len(calls) > 1 else 0)
            )
    return taken


def interleaved(call: Call, *, seconds: float, settling: int, clock: Clock = time.perf_counter_ns) -> Samples:
    """The samples of one turn, without those of the calls in which the caches settle."""
    for _ in range(settling):
        call()
    return collect(call, seconds=seconds, clock=clock)


def joined(rounds: Sequence[Samples]) -> Samples:
    """All rounds as one."""
    names = Samples.__dataclass_fields__
    return Samples(**{name: np.concatenate([getattr(each, name) for each in rounds]) for name in names})


def paired_ratio(rounds: Sequence[Samples], others: Sequence[Samples]) -> Ratio:
    """Compare two bundles round by round.

    The interval is between two order statistics of the rounds' ratios: it assumes nothing of their distribution but
    that rounds are independent (the sign test, turned round; David and Nagaraja, Order Statistics, 2003, 7.1).
    """
    ratios = [float(np.median(one.total) / np.median(other.total)) for one, other in zip(rounds, others, strict=True)]
    rank, confidence = median_interval_rank(len(ratios))
    low, high = np.sort(ratios)[[rank - 1, -rank]]
    return Ratio(float(np.median(ratios)), float(low), float(high), confidence, tuple(ratios))


def median_interval_rank(count: int, confidence: float = CONFIDENCE) -> tuple[int, float]:
    """The largest k such that the k-th smallest and k-th largest of ``count`` values hold the median so often.

    Returns:
        k, and the probability with which they hold it; k is 1 where even the extremes hold it less often.
    """
    rank, tail = 1, 0.5**count
    while rank < (count + 1) // 2:
        wider = tail + math.comb(count, rank) * 0.5**count
        if 1 - 2 * wider < confidence:
            break
        rank, tail = rank + 1, wider
    return rank, max(0.0, 1 - 2 * tail)


COLD_START = """\
import sys
import time
stamps = [time.perf_counter_ns()]
from vitedge.runtime.load import load
import numpy
stamps.append(time.perf_counter_ns())
path, engine, threads, height, width = sys.argv[1:]
classifier = load(path, engine=engine or None, threads=int(threads) or None)
stamps.append(time.perf_counter_ns())
frame = numpy.zeros((int(height), int(width), 3), numpy.uint8)
before = time.perf_counter_ns()
classifier.classify(frame)
stamps.append(stamps[-1] + time.perf_counter_ns() - before)
print([later - earlier for earlier, later in zip(stamps, stamps[1:])])
"""


def cold_start(
    path: Path, frame_size: tuple[int, ...], *, engine: str | None = None, threads: int | None = None
) -> ColdStart | None:
    """Time a fresh Python process from import to first prediction; None if it does not come that far.

    The bundle's files are in the system's cache when it was opened before, so a machine that has just booted is slower.
    """
    height, width = frame_size
    arguments = [str(path), engine or "", str(threads or 0), str(height), str(width)]
    try:
        done = subprocess.run(
            child.code_command(COLD_START, *arguments),
            env=child.environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=COLD_START_TIMEOUT,
        )
        nanoseconds = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return ColdStart(*(each / 1e6 for each in nanoseconds))
