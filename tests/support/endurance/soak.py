"""A stream of many frames: memory, threads and descriptors stay flat, and every frame is counted."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.sources.base import FrameSource
from vitedge.runtime.stream.stats import StreamStats
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeEngine, FakeSource

SIDE = 32
"""Rows and columns of the engine's input."""
LABELS = ("red", "green", "blue")
PICTURES = 64
WARM_UP = 0.1
"""Part of a run before its memory counts."""
LIVE_FPS = 4000.0
"""Faster than frames are classified, so that most are dropped."""
MOST_AT_END = 16
"""Frames that may be under way when a stream ends: more were lost on the way."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Footprint:
    """What this process holds at a moment.

    Attributes:
        megabytes: resident memory.
        threads: number of threads.
        descriptors: number of open files and sockets.
    """

    megabytes: float
    threads: int
    descriptors: int


def footprint() -> Footprint:
    """Read what this process holds; garbage is collected before."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    threads, descriptors = (sum(1 for _ in Path("/proc/self", each).iterdir()) for each in ("task", "fd"))
    return Footprint(pages * PAGE / 1e6, threads, descriptors - 1)  # without the one that lists them


@dataclass(frozen=True)
class Soaked:
    """What a run gave.

    Attributes:
        stats: the stream's counts after its end.
        predictions: number of predictions that came.
        counted: predictions, and the drops that they report.
        delivered: frames that the source delivered; None if it does not tell.
        footprints: during the run, after the warm-up.
        seconds: length of the run.
    """

    stats: StreamStats
    predictions: int
    counted: int
    delivered: int | None
    footprints: tuple[Footprint, ...]
    seconds: float

    @property
    def growth_mb(self) -> float:
        """Megabytes of resident memory over those of the first footprint."""
        return max(each.megabytes for each in self.footprints) - self.footprints[0].megabytes

    @property
    def left(self) -> tuple[int, int]:
        """Threads and descriptors that stay: the fewest of the last quarter over the fewest of the first.

        Libraries of this process start and end threads of their own meanwhile.
        """
        quarter = -(-len(self.footprints) // 4)
        first, last = self.footprints[:quarter], self.footprints[-quarter:]
        return (
            min(each.threads for each in last) - min(each.threads for each in first),
            min(each.descriptors for each in last) - min(each.descriptors for each in first),
        )

    @property
    def is_exact(self) -> bool:
        """Whether every frame of the source was predicted or dropped by a cause."""
        stats = self.stats
        return (
            stats.captured == stats.predicted + sum(stats.dropped.values())
            and stats.captured == (stats.captured if self.delivered is None else self.delivered)
            and stats.predicted == self.predictions
            and 0 <= stats.dropped["at_end"] <= MOST_AT_END
            and self.counted <= stats.captured
        )


def table_classifier() -> tuple[Classifier, FakeEngine]:
    """Return a classifier whose engine looks up the mean colour of a frame, and the engine."""
    engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(SIDE, SIDE))
    return Classifier(engine, Preprocessing((SIDE, SIDE), (SIDE, SIDE)), LABELS), engine


def endless_frames(*, live: bool, frames: int) -> FakeSource:
    """Return a source of that many frames; one that is not live delivers them as fast as they are taken."""
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=np.uint8)
    return FakeSource(
        lambda index: pictures[index % PICTURES] if index < frames else None, fps=LIVE_FPS if live else None, live=live
    )


def soak(
    source: FrameSource | str,
    *,
    samples: int,
    sample_due: Callable[[int, float], int],
    is_over: Callable[[float], bool] = lambda _: False,
    **options: object,
) -> Soaked:
    """Run a stream to its end, or until it is over.

    Args:
        source: the source.
        samples: number of footprints.
        sample_due: the number of the footprint that is due, by the number of captured frames and the seconds.
        is_over: whether to end, by the seconds.
        options: further arguments of ``Stream``.
    """
    classifier, engine = table_classifier()
    begun, footprints, counted, predictions = time.monotonic(), [], 0, 0
    with classifier, Stream(classifier, source, **options) as stream:  # type: ignore[arg-type]
        for predictions in count(1):
            prediction = next(stream, None)
            elapsed = time.monotonic() - begun
            if prediction is None or is_over(elapsed):
                predictions -= prediction is None
                break
            engine.calls.clear()
            counted += 1 + prediction.dropped
            if len(footprints) < sample_due(counted, elapsed) <= samples and stream.state == "online":
                footprints.append(footprint())
    warm = tuple(footprints[round(WARM_UP * len(footprints)) :])
    delivered = source.delivered if isinstance(source, FakeSource) else None
    return Soaked(stream.stats, predictions, counted, delivered, warm, time.monotonic() - begun)


def soak_frames(frames: int, *, live: bool, samples: int = 100) -> Soaked:
    """Run a stream over frames that come as fast as they are taken."""
    return soak(
        endless_frames(live=live, frames=frames),
        samples=samples,
        sample_due=lambda counted, _: counted * (samples + 1) // frames,  # none while threads end
        policy="latest" if live else "every",
    )


def soak_camera(address: str, seconds: float, *, samples: int = 100, **options: object) -> Soaked:
    """Run a stream of a camera for some seconds."""
    return soak(
        address,
        samples=samples,
        sample_due=lambda _, elapsed: int(elapsed * samples / seconds),
        is_over=lambda elapsed: elapsed >= seconds,
        **options,
    )
