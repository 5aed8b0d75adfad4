"""Rates of what a stream does, for the benchmarks of streams."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import BatchEngine, Engine

KEPT_FRAMES = 32
"""Frames that are kept decoded, to measure what comes after decoding."""

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Rate:
    """One case in one round.

    Attributes:
        fps: frames per second.
        core_ms: processor time of a frame in milliseconds, of all threads together.
    """

    fps: float
    core_ms: float


def in_workers(workers: Sequence[Classifier], prepared: Iterable[Pixels]) -> Iterator[object]:
    """Logits of prepared frames, a thread for each worker."""
    free: SimpleQueue[Classifier] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def infer(pixels: Pixels) -> Logits:
        worker = free.get()
        try:
            return worker.infer(pixels)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(infer, prepared)


def inference_rate(engines: Sequence[Engine], count: int) -> Rate:
    """Inference alone of ``count`` frames in workers, a thread for each, and in batches where they take batches."""
    size = len(engines[0].frames) if isinstance(engines[0], BatchEngine) else 1
    free: SimpleQueue[Engine] = SimpleQueue()
    for engine in engines:
        free.put(engine)

    def infer(_: int) -> Logits:
        engine = free.get()
        try:
            return engine.run_batch() if isinstance(engine, BatchEngine) else engine.run()
        finally:
            free.put(engine)

    with ThreadPoolExecutor(len(engines)) as pool:
        found = rate(pool.map(infer, range(count // size)))
    return Rate(found.fps * size, found.core_ms / size)


def rate(items: Iterable[object]) -> Rate:
    """From the first item to the last: N of them are N−1 intervals."""
    iterator = iter(items)
    next(iterator)
    begun, worked = time.perf_counter_ns(), time.process_time_ns()
    intervals = sum(1 for _ in iterator)
    took, working = time.perf_counter_ns() - begun, time.process_time_ns() - worked
    return Rate(intervals * 1e9 / took, working / 1e6 / intervals)
