"""Test doubles for applications: an engine and a source of frames that do as they are told, without model or camera."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitedge.errors import EngineError
from vitedge.prediction import Image
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.sources.base import Frame, FrameSource

logger = logging.getLogger("vitedge")

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
                expected=f"one of the {len(table)} frames it was given",
            )
        return table[frame.tobytes()]

    return logits_of


class FakeSource(FrameSource):
    """A source that delivers given frames at a given rate, then ends, and fails or reconnects where it is told to.

        source = FakeSource([red, blue])                                        # a file of two frames
        source = FakeSource(lambda index: red, fps=25, live=True)               # a camera that never ends
        source = FakeSource([red], live=True, error=OSError("unplugged"))       # a camera that fails after one frame
        source = FakeSource([red] * 9, live=True, reconnects={5: 2.0})          # 2 s of silence before frame 5

    Attributes:
        name: ``the fake source``.
        live: as given.
        fps: as given.
        length: number of the frames, if they are a sequence; None otherwise.
        delivered: number of frames that were delivered.
        closed: whether ``close`` was called, which also ends a wait for the next frame.

    Args:
        frames: ``H×W×3`` uint8 BGR arrays; or a function from the index of a frame to the frame, or to None at the end.
        fps: frames per second; None delivers each frame as soon as it is asked for.
        live: whether frames that nobody reads are lost, as with a camera.
        error: exception that is raised after the last frame; None to end.
        reconnects: seconds of silence before the frame of an index, as while a camera reconnects. Each adds a notice.
    """

    name = "the fake source"

    def __init__(
        self,
        frames: Sequence[Image] | Callable[[int], Image | None],
        *,
        fps: float | None = None,
        live: bool = False,
        error: BaseException | None = None,
        reconnects: Mapping[int, float] | None = None,
    ) -> None:
        self.live = live
        self.fps = fps
        self.length = None if callable(frames) else len(frames)
        self.delivered = 0
        self._frame_of = frames if callable(frames) else _sequenced(frames)
        self._error = error
        self._reconnects = dict(reconnects or {})
        self._notices: list[str] = []
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed.is_set()

    @property
    def notices(self) -> tuple[str, ...]:
        """The reconnections so far."""
        return tuple(self._notices)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            BaseException: ``error``, after the last frame.
        """
        due = time.monotonic()
        for index in itertools.count():
            if index in self._reconnects:
                due = time.monotonic() + self._reconnect(index)
            image = self._frame_of(index)
            if image is None or self._closed.wait(max(0.0, due - time.monotonic())):
                break
            due += 1.0 / self.fps if self.fps else 0.0
            self.delivered += 1
            yield Frame(image, index)
        if self._error is not None and not self.closed:
            raise self._error

    def close(self) -> None:
        """End the frames; a second call does nothing."""
        self._closed.set()

    def _reconnect(self, index: int) -> float:
        """Report a reconnection and return the seconds that it takes."""
        seconds = self._reconnects[index]
        self._notices.append(f"{self.name} reconnects before frame {index}, which takes {seconds:g} s")
        logger.warning("%s", self._notices[-1])
        return seconds


def _sequenced(frames: Sequence[Image]) -> Callable[[int], Image | None]:
    return lambda index: frames[index] if index < len(frames) else None
