"""A classifier, sources and checks for tests of streams."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import clips
import numpy as np
import pytest

from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.preprocess.orientation import turned
from vitedge.runtime.stream.stream import POLICIES
from vitedge.testing import FakeSource

PATIENCE = 10.0
WORKERS = 2
EITHER = pytest.mark.parametrize("policy", POLICIES)
STREAM_THREADS = ("vitedge-reader", "vitedge-worker", "vitedge-watch", "vitedge-closer", "vitedge-states")


def our_threads() -> list[threading.Thread]:
    """Those that a stream started and that still run."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(STREAM_THREADS)]


def no_threads() -> bool:
    """Whether all threads of streams end."""
    for thread in our_threads():
        thread.join(PATIENCE)
    return our_threads() == []


def until(is_so: Callable[[], object]) -> bool:
    """Wait until something is so; False if it does not become so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class NumberReader:
    """A classifier that reads a frame's number off it, and can be made to fail, at one number or at all."""

    def __init__(self, *workers: NumberReader) -> None:
        self.own_workers = workers
        self.workers_error: BaseException | None = None
        self.threshold = 0.0
        self.pause = 0.0
        self.error: BaseException | None = None
        self.fails_at: int | None = None
        self.threads: set[str] = set()
        self.classified: list[int] = []

    def classify(self, image, *, topk, order):
        number = clips.number_of(image)
        self.threads.add(threading.current_thread().name)
        if self.error is not None and self.fails_at in (None, number):
            raise self.error
        time.sleep(self.pause)
        self.classified.append(number)
        best = tuple(ClassScore(str(number), place, 1.0) for place in range(topk))
        return Prediction(best, 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0), abstained=self.threshold > 1.0)

    def oriented(self, image, orientation):
        return turned(image, orientation)

    def orientation_notice(self, count, subject):
        return f"{subject}: {count} turned"

    def workers(self, *, batches):
        if self.workers_error is not None:
            raise self.workers_error
        return self.own_workers


def numbered(count: int) -> Iterator[np.ndarray]:
    """That many frames, each with its number on it."""
    for number in range(count):
        yield clips.numbered_frame(number)


def numbers(predictions) -> list[int]:
    """What was read off the frames."""
    return [int(prediction.label) for prediction in predictions]


def until_error(predictions: Iterator[Prediction]) -> tuple[list[int], BaseException]:
    """The numbers that came, and the error that ended them."""
    seen: list[int] = []
    try:
        for prediction in predictions:
            seen.append(int(prediction.label))  # noqa: PERF401 - what came before the error is wanted
    except Exception as error:  # noqa: BLE001
        return seen, error
    pytest.fail("the stream ended without an error")


class HeldSource(FakeSource):
    """Live frames that come when the test lets them."""

    name = "the held source"

    def __init__(self) -> None:
        super().__init__(self._next, live=True)
        self.arrived = threading.Semaphore(0)
        self.failure: BaseException | None = None

    def _next(self, index: int) -> np.ndarray:
        self.arrived.acquire()
        if self.failure is not None:
            raise self.failure
        return clips.numbered_frame(index)

    def let(self, frames: int) -> None:
        """Deliver frames, and wait until the stream has taken them and asked for one more."""
        before = self.delivered
        self.arrived.release(frames)
        until(lambda: self.delivered >= before + frames)

    def fail(self, error: BaseException) -> None:
        self.failure = error
        self.arrived.release()


def unplugged_after(frames: int) -> Iterator[np.ndarray]:
    """That many frames, and then the error of a camera that is gone."""
    yield from numbered(frames)
    raise OSError("unplugged")


@contextmanager
def signal_after(seconds: float, handler: Callable[..., object]) -> Iterator[None]:
    """Send this thread SIGUSR1, which ``handler`` gets; nothing is sent any more once the context is left."""
    before = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(seconds, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    try:
        timer.start()
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, before)
