"""Rates of what a stream does, for the benchmarks of streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import BatchEngine, Engine

KEPT_FRAMES = 32
"""Frames that are kept decoded, to measure what comes after decoding."""

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
Worker = TypeVar("Worker")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Rate:
    """One case in one round.

    Attributes:
        fps: frames per second.
        core_ms: processor time of a frame in milliseconds, of all threads together.
    """

    fps: float
    core_ms: float


def in_workers(workers: Sequence[Classifier], prepared: Iterable[Pixels]) -> Iterator[Logits]:
    """Yield the logits of prepared frames, a thread for each worker."""
    return _shared_out(workers, lambda worker, pixels: worker.infer(pixels), prepared)


def inference_rate(engines: Sequence[Engine], count: int) -> Rate:
    """Measure inference of ``count`` frames in workers, a thread for each, and in batches where they take batches."""
    size = len(engines[0].frames) if isinstance(engines[0], BatchEngine) else 1

    def infer(engine: Engine, _: int) -> Logits:
        return engine.run_batch() if isinstance(engine, BatchEngine) else engine.run()

    found = rate(_shared_out(engines, infer, range(count // size)))
    return Rate(found.fps * size, found.core_ms / size)


def _shared_out(
    workers: Sequence[Worker], infer: Callable[[Worker, Item], Logits], items: Iterable[Item]
) -> Iterator[Logits]:
    """Yield what the workers make of the items, in their order; each worker has one item at a time."""
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def infer_next(item: Item) -> Logits:
        worker = free.get()
        try:
            return infer(worker, item)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(infer_next, items)


def rate(items: Iterable[object]) -> Rate:
    """Measure the rate from the first item to the last: N of them are N−1 intervals."""
    iterator = iter(items)
    next(iterator)
    begun, worked = time.perf_counter_ns(), time.process_time_ns()
    intervals = sum(1 for _ in iterator)
    took, working = time.perf_counter_ns() - begun, time.process_time_ns() - worked
    return Rate(intervals * 1e9 / took, working / 1e6 / intervals)
