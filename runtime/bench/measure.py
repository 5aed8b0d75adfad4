"""``bench``: the latency of bundles on this machine, measured through the classifier that applications use.

    cold start (fresh process) ─▶ warm-up until stable ─▶ calls, one after the other ─▶ percentiles of raw nanoseconds
                                                                                      └▶ audit of an 8-bit bundle

With a second bundle, both are open at once and their calls alternate in rounds, A B A B …, so that heat, frequency and
other processes affect both alike. The ratio is taken within each round.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitedge.audit import Audit, differences
from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError, UsageError
from vitedge.prediction import Image, StageTimes
from vitedge.progress import Progress, Silent, reporting
from vitedge.runtime.bench.cold_start import ColdStart, cold_start
from vitedge.runtime.bench.ratio import Ratio, paired_ratio
from vitedge.runtime.bench.timing import NANOSECONDS, Samples, WarmUp, concatenate, take_turns, warm_up
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.audit.engine import audit_engine
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.open import EngineName
from vitedge.runtime.load import load
from vitedge.runtime.system.machine import MachineState, machine_state
from vitedge.safety.limits import IMAGE_PIXELS

FRAME_SIZE = (720, 1280)
FRAMES = 4
WARM_UP_FACTOR = 2.0
DRIFT_TOLERANCE = 0.05


@dataclass(frozen=True)
class Measurement:
    """The measurement of one bundle.

    Attributes:
        bundle: path of the bundle, as given.
        model: name of the model.
        info: the engine's library, device and precision.
        warm_up: the calls before the counted ones.
        samples: the counted calls.
        cold_start: times of a cold start; None if it failed.
        audit: the layers of an 8-bit bundle as they run here; None for other bundles, and where the engine does not
            tell it.
        differences: layers that run in another precision here than on the converting host, in words.
    """

    bundle: str
    model: str
    info: EngineInfo
    warm_up: WarmUp
    samples: Samples = field(repr=False)
    cold_start: ColdStart | None
    audit: Audit | None = None
    differences: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        """Return whether the latency had settled before the counted calls and did not drift during them."""
        return self.warm_up.settled and abs(self.samples.drift) <= DRIFT_TOLERANCE

    @property
    def throughput_fps(self) -> float:
        """Return calls per second, one after the other: N calls over the time of N calls."""
        return len(self.samples) * NANOSECONDS / float(self.samples.total.sum())


@dataclass(frozen=True)
class BenchReport:
    """The result of ``bench``.

    Attributes:
        measurement: measurement of the bundle.
        against: measurement of the second bundle, or None.
        ratio: ratio of their latencies, or None.
        frame_size: (height, width) of the frames in pixels.
        threads: number of CPU threads that was requested, or None.
        machine: state of the machine before the measurement.
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
    engine: EngineName | None = None,
    threads: int | None = None,
    frame_size: tuple[int, int] = FRAME_SIZE,
    progress: Progress = Silent(),  # noqa: B008
) -> BenchReport:
    """Measure the latency of one bundle on this machine, or of two that take turns.

    Args:
        bundle: path of the bundle.
        against: path of a second bundle to compare it with.
        seconds: time for the counted calls of each bundle; the warm-up may take twice as long.
        engine: key in ``vitedge.runtime.engines.open.ENGINES``; by default the engine of each bundle's target.
        threads: number of CPU threads; by default the engine decides.
        frame_size: (height, width) of the synthetic camera frames in pixels.
        progress: receives the steps.

    Returns:
        The measurement of each bundle, and the ratio if there are two.

    Raises:
        UsageError: ``seconds`` is not positive, a frame would have no pixel or more than a picture may have, or there
            is no engine of that name.
        BundleError: a bundle cannot be read.
        MissingExtraError: the engine's library is not installed.
        EngineError: an engine does not load, fails, or does not pass its self-test.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds}", expected="a positive number")
    height, width = frame_size
    if min(frame_size) < 1 or height * width > IMAGE_PIXELS:
        raise UsageError(f"the frame size is {width}x{height}", expected=f"1 to {IMAGE_PIXELS} pixels")
    machine = machine_state()
    frames = random_frames(height, width)
    paths = [bundle] if against is None else [bundle, against]
    bundles = [Bundle.open(path, contents=False) for path in paths]
    with reporting(progress), ExitStack() as stack:
        opened = [stack.enter_context(_opened(each, frames, engine, threads, progress)) for each in bundles]
        warm_ups = [_warmed(each, seconds * WARM_UP_FACTOR, progress) for each in opened]
        progress.step(f"measuring {seconds:g} s{' of each, in turns' if against else ''}")
        rounds = take_turns([each.call for each in opened], seconds, progress)
        audits = [_audited(each, threads, progress) for each in opened]
    measured = [
        Measurement(
            str(each.bundle.path),
            each.bundle.manifest.model.name,
            each.classifier.info,
            warmed,
            concatenate(samples),
            each.cold_start,
            audit,
            _differences(each.bundle, audit),
        )
        for each, warmed, samples, audit in zip(opened, warm_ups, rounds, audits, strict=True)
    ]
    return BenchReport(
        measurement=measured[0],
        against=measured[1] if against is not None else None,
        ratio=paired_ratio(*rounds) if against is not None else None,
        frame_size=frame_size,
        threads=threads,
        machine=machine,
    )


@dataclass(frozen=True)
class _BundleUnderTest:
    """An open bundle, and the frames that it is measured with."""

    bundle: Bundle
    classifier: Classifier
    frames: Iterator[Image]
    cold_start: ColdStart | None

    def call(self) -> StageTimes:
        """Classify the next frame."""
        return self.classifier.classify(next(self.frames)).stages_ms


@contextmanager
def _opened(
    bundle: Bundle, frames: Sequence[Image], engine: EngineName | None, threads: int | None, progress: Progress
) -> Iterator[_BundleUnderTest]:
    path = bundle.path
    progress.step(f"opening {path}")
    with load(path, engine=engine, threads=threads, progress=progress) as classifier:
        progress.step(f"cold start of {path} in a fresh process")
        cold = cold_start(path, frames[0].shape[:2], engine=engine, threads=threads)
        yield _BundleUnderTest(bundle, classifier, itertools.cycle(frames), cold)


def _warmed(opened: _BundleUnderTest, limit: float, progress: Progress) -> WarmUp:
    progress.step(f"warming up {opened.bundle.path}, at most {limit:g} s")
    return warm_up(opened.call, limit=limit)


def _audited(opened: _BundleUnderTest, threads: int | None, progress: Progress) -> Audit | None:
    """Find out in which precision the layers of an 8-bit bundle run; a failure costs no measurement."""
    bundle = opened.bundle
    if bundle.manifest.precision.asked not in ("int8", "fp8"):
        return None
    progress.step(f"finding the layers of {bundle.path} in the engine")
    try:
        return audit_engine(bundle, opened.classifier.info, threads=threads)
    except EngineError as error:
        progress.step(f"warning: the layers are not found: {error.problem}")
        return None


def _differences(bundle: Bundle, audit: Audit | None) -> tuple[str, ...]:
    recorded = bundle.manifest.audit
    return () if audit is None or recorded is None else tuple(differences(recorded, audit))


def random_frames(height: int, width: int) -> list[Image]:
    """Make ``height×width×3`` uint8 frames of random texture, as many as a camera has buffers."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(FRAMES)]
