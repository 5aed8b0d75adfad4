"""Test doubles for applications: an engine and a source of frames that do as they are told, without model or camera."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitedge.counts import counted
from vitedge.errors import Cause, EngineError, FrameSourceError
from vitedge.prediction import Image
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.sources.base import Frame, FrameSource

__all__ = ["FAKE_INFO", "FakeCamera", "FakeConnection", "FakeEngine", "FakeSource"]

FAKE_INFO = EngineInfo(
    name="fake",
    version="1",
    device="none",
    effective_precision="fp32",
    rest_precision="fp32",
)


class FakeEngine:
    """An engine that returns given logits instead of computing them.

        engine = FakeEngine({red.tobytes(): [4, 0, 0], blue.tobytes(): [0, 0, 4]}, input_size=(32, 32))
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(32, 32))
        classifier = Classifier(engine, preprocessing, labels)

    Attributes:
        info: describes the engine as ``fake``.
        frame: ``H×W×3`` uint8, the input buffer.
        calls: a copy of every frame that was run, in order.
        error: exception that every ``run`` raises; None to raise none.
        closed: whether ``close`` was called.

    Args:
        logits: logits by ``frame.tobytes()``, or a function from a ``H×W×3`` uint8 frame to ``(classes,)`` logits.
        input_size: (height, width) of ``frame`` in pixels.
    """

    def __init__(
        self, logits: Mapping[bytes, ArrayLike] | Callable[[Image], ArrayLike], *, input_size: tuple[int, int]
    ) -> None:
        self.info = FAKE_INFO
        self.frame: Image = np.zeros((*input_size, 3), dtype=np.uint8)
        self.calls: list[Image] = []
        self.error: BaseException | None = None
        self.closed = False
        self._logits_of = logits if callable(logits) else _looked_up(logits)

    def run(self) -> NDArray[np.float32]:
        """Return the logits of ``frame``: ``(classes,)`` float32, which the caller owns.

        Raises:
            EngineError: there are no logits for this frame, or the engine is closed.
            BaseException: ``error``, if it is set.
        """
        if self.closed:
            raise EngineError("this fake engine is closed")
        frame = self.frame.copy()
        self.calls.append(frame)
        if self.error is not None:
            raise self.error
        return np.array(self._logits_of(frame), dtype=np.float32)

    def close(self) -> None:
        """Close the engine; a second call does nothing."""
        self.closed = True


def _looked_up(table: Mapping[bytes, ArrayLike]) -> Callable[[Image], Any]:
    def logits_of(frame: Image) -> Any:
        if frame.tobytes() not in table:
            raise EngineError(
                f"the fake engine has no logits for a frame of mean {frame.mean():.1f}",
                expected=f"one of the {counted(len(table), 'frame')} it was given",
            )
        return table[frame.tobytes()]

    return logits_of


class FakeSource(FrameSource):
    """A source that delivers given frames at a given rate, then ends or fails as it is told to.

        source = FakeSource([red, blue])                                        # a file of two frames
        source = FakeSource(lambda index: red, fps=25, live=True)               # a camera that never ends
        source = FakeSource([red], live=True, error=OSError("unplugged"))       # a camera that fails after one frame

    ``FakeCamera`` is a source that a stream can open again.

    Attributes:
        name: ``the fake source``.
        live: as given.
        fps: as given.
        length: number of the frames, if they are a sequence; None otherwise.
        delivered: number of frames that were delivered.
        closed: whether ``close`` was called, which also ends a wait for the next frame.

    Args:
        frames: ``H×W×3`` uint8 BGR arrays, or ``Frame`` objects, which may be old or corrupt; or a function from the
            index of a frame to the frame, or to None at the end.
        fps: frames per second; None delivers each frame as soon as it is asked for.
        live: whether frames that nobody reads are lost, as with a camera.
        error: exception that is raised after the last frame; None to end.
    """

    name = "the fake source"

    def __init__(
        self,
        frames: Sequence[Image | Frame] | Callable[[int], Image | Frame | None],
        *,
        fps: float | None = None,
        live: bool = False,
        error: BaseException | None = None,
    ) -> None:
        self.live = live
        self.fps = fps
        self.length = None if callable(frames) else len(frames)
        self.delivered = 0
        self._frame_of = frames if callable(frames) else _sequenced(frames)
        self._error = error
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closed.is_set()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            BaseException: ``error``, after the last frame.
        """
        due = time.monotonic()
        for index in itertools.count():
            image = self._frame_of(index)
            if image is None or self._closed.wait(max(0.0, due - time.monotonic())):
                break
            due += 1.0 / self.fps if self.fps else 0.0
            self.delivered += 1
            yield _framed(image, index)
        if self._error is not None and not self.closed:
            raise self._error

    def close(self) -> None:
        """End the frames; a second call does nothing."""
        self._closed.set()


class FakeCamera:
    """A camera that a test switches while a stream reads it: it goes silent, hangs, fails and comes back.

        camera = FakeCamera(lambda index: red)
        with classifier.stream(camera.open) as stream:
            next(stream)
            camera.fail("eof")             # the connection breaks, and no other is accepted
            camera.come_back()
            assert next(stream).epoch == 1

    Attributes:
        attempts: number of calls of ``open``.
        sources: connections that were accepted, in order, the last 100; each is a ``FrameSource`` with ``closed``.

    Args:
        frames: ``H×W×3`` uint8 BGR arrays, or ``Frame`` objects, by their index in a connection; None at the end.
        fps: frames per second.
    """

    def __init__(self, frames: Callable[[int], Image | Frame | None], *, fps: float = 100.0) -> None:
        self.attempts = 0
        self.sources: deque[FakeConnection] = deque(maxlen=100)
        self._frame_of = frames
        self._fps = fps
        self._changed = threading.Condition()
        self._cause: Cause | None = None
        self._is_silent = self._hangs = False

    def open(self) -> FrameSource:
        """Connect; give this function to a stream, which calls it again to reconnect.

        Raises:
            FrameSourceError: the camera fails, with the cause that it was given.
        """
        with self._changed:
            self.attempts += 1
            self._changed.wait_for(lambda: not self._hangs)
            if self._cause is not None:
                raise _failure(self._cause)
            source = FakeConnection(self, self._frame_of, self._fps)
            self.sources.append(source)
            return source

    def go_silent(self) -> None:
        """Accept connections and deliver nothing, as a stopped server or a broken network does."""
        self._switch(is_silent=True)

    def hang(self) -> None:
        """Answer nothing at all: neither ``open`` nor a read returns, not even after ``close``."""
        self._switch(hangs=True)

    def fail(self, cause: Cause) -> None:
        """Break the connections and refuse others, with a cause."""
        self._switch(cause=cause)

    def come_back(self) -> None:
        """Accept connections and deliver frames again."""
        self._switch()

    def _switch(self, *, cause: Cause | None = None, is_silent: bool = False, hangs: bool = False) -> None:
        with self._changed:
            self._cause, self._is_silent, self._hangs = cause, is_silent, hangs
            for source in self.sources:
                source.cause = source.cause or cause
            self._changed.notify_all()

    def _wait(self, source: FakeConnection, due: float) -> bool:
        """Wait until a frame is due; False at the end."""
        with self._changed:
            while self._hangs or not source.closed:
                if source.cause is not None and not self._hangs:
                    raise _failure(source.cause)
                rest = math.inf if self._hangs or self._is_silent else due - time.monotonic()
                if rest <= 0:
                    return True
                self._changed.wait(min(rest, threading.TIMEOUT_MAX))
        return False

    def _close(self, source: FakeConnection) -> None:
        with self._changed:
            source.closed = True
            self._changed.notify_all()


class FakeConnection(FrameSource):
    """One connection to a ``FakeCamera``.

    Attributes:
        name: ``the fake camera``.
        closed: whether ``close`` was called.
        cause: what broke it; None while it is whole.
    """

    name = "the fake camera"
    live = True

    def __init__(self, camera: FakeCamera, frame_of: Callable[[int], Image | Frame | None], fps: float) -> None:
        self.fps = fps
        self._interval = 1.0 / fps
        self.closed = False
        self.cause: Cause | None = None
        self._camera = camera
        self._frame_of = frame_of

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames as the camera is switched.

        Raises:
            FrameSourceError: the camera fails.
        """
        due = time.monotonic()
        for index in itertools.count():
            if not self._camera._wait(self, due):
                return
            image = self._frame_of(index)
            if image is None:
                return
            yield _framed(image, index)
            due = max(due, time.monotonic() - 1.0) + self._interval

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        self._camera._close(self)


def _failure(cause: Cause) -> FrameSourceError:
    return FrameSourceError(f"the fake camera fails: {cause}", cause=cause)


def _framed(image: Image | Frame, index: int) -> Frame:
    return image if isinstance(image, Frame) else Frame(image, index)


def _sequenced(frames: Sequence[Image | Frame]) -> Callable[[int], Image | Frame | None]:
    return lambda index: frames[index] if index < len(frames) else None


def __dir__() -> list[str]:
    return list(__all__)
