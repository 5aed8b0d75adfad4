"""Stages, sources and checks for tests of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import clips
import numpy as np
import pytest

from vitedge.prediction import Candidate, Prediction
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.stream.stream import POLICIES

PATIENCE = 10.0
LANES = 2
EITHER = pytest.mark.parametrize("policy", POLICIES)
STREAM_THREADS = ("vitedge-grab", "vitedge-lane")


def our_threads() -> list[threading.Thread]:
    """Those that a stream started and that still run."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(STREAM_THREADS)]


class NumberReader:
    """Stages that read a frame's number; each can be made to fail, at one number or at all."""

    def __init__(self, *lanes: NumberReader) -> None:
        self.own_lanes = lanes
        self.threshold = 0.0
        self.lanes_error: BaseException | None = None
        self.fails_at: int | None = None
        self.pause = 0.0
        self.prepare_error: BaseException | None = None
        self.infer_error: BaseException | None = None
        self.prepared_in: set[str] = set()
        self.inferred_in: set[str] = set()
        self.inferred: list[int] = []

    def prepare(self, image, *, order):
        self.prepared_in.add(threading.current_thread().name)
        if self.prepare_error is not None and self.fails_at in (None, clips.number_of(image)):
            raise self.prepare_error
        return image

    def infer(self, prepared):
        self.inferred_in.add(threading.current_thread().name)
        if self.infer_error is not None and self.fails_at in (None, clips.number_of(prepared)):
            raise self.infer_error
        time.sleep(self.pause)
        self.inferred.append(clips.number_of(prepared))
        return np.array([clips.number_of(prepared)], dtype=np.float32)

    def rank(self, logits, topk):
        return tuple(Candidate(str(int(logits[0])), place, 1.0) for place in range(topk))

    def lanes(self):
        if self.lanes_error is not None:
            raise self.lanes_error
        return self.own_lanes


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


class HeldSource(FrameSource):
    """Live frames that come when the test lets them; remembers that it was closed."""

    name = "the held source"
    live = True

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.closed = 0
        self.error: BaseException | None = None
        self.delivered = 0

    def __iter__(self) -> Iterator[Frame]:
        while self.arrived.acquire():
            if self.error is not None:
                raise self.error
            self.delivered += 1
            yield Frame(clips.numbered_frame(self.delivered - 1), self.delivered - 1)

    def close(self) -> None:
        self.closed += 1

    def let(self, frames: int) -> None:
        """Deliver frames, and wait until the stream has taken them and asked for one more."""
        before = self.delivered
        self.arrived.release(frames)
        deadline = time.monotonic() + PATIENCE
        while self.delivered < before + frames and time.monotonic() < deadline:
            time.sleep(0.001)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.arrived.release()


def unplugged_after(frames: int) -> Iterator[np.ndarray]:
    """That many frames, and then the error of a camera that is gone."""
    yield from numbered(frames)
    raise OSError("unplugged")
