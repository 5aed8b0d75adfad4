"""What a reader makes of the frames of a source: their numbers, their counts, and when they are delivered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from vitedge.runtime.sources.base import Frame, FrameSource

LATE_NS = 500_000_000
"""A frame is late, after a stall, if it is so much older than frames were before."""


class Arrivals:
    """Numbers and counts the frames of a source, over all of its connections; not thread-safe.

    Attributes:
        epoch: number of the connection, from 0; -1 before the first.
        corrupt: frames in which the decoder concealed lost or damaged data.
        late: frames that came in a burst after a stall.
    """

    def __init__(self) -> None:
        self.epoch = -1
        self.corrupt = self.late = 0
        self._next_index = self._first_index = 0
        self._usual_age = 0
        self._catching_up = False

    def connect(self) -> None:
        """Begin a connection, whose first frame comes next."""
        self.epoch += 1
        self._first_index = self._next_index
        self._catching_up = False

    def take(self, frame: Frame, *, stalled: bool) -> Frame:
        """Count a frame, and return it with a number that goes on after the connections before its own.

        Args:
            frame: the frame.
            stalled: whether the source had stalled before it.
        """
        index = self._first_index + frame.index
        self._next_index = index + 1
        self.corrupt += frame.corrupt
        self._note_age(time.monotonic_ns() - frame.captured_ns, stalled=stalled)
        return replace(frame, index=index, epoch=self.epoch) if self.epoch else frame

    def _note_age(self, age: int, *, stalled: bool) -> None:
        self._catching_up = (self._catching_up or stalled) and age > self._usual_age + LATE_NS
        self.late += self._catching_up
        if not self._catching_up:
            self._usual_age = age


def paced(source: FrameSource, wait: Callable[[float], bool]) -> Iterator[Frame]:
    """Yield each frame at its presentation time, or else when a camera of the frame rate would capture it.

    A source that has neither is not paced.

    Args:
        source: the source.
        wait: waits for some seconds, and returns whether to go on.
    """
    begun, first = 0.0, 0.0
    for count, frame in enumerate(source):
        if not count:
            begun, first = time.monotonic(), frame.pts or 0.0
        if frame.pts is None and not source.fps:
            yield frame
            continue
        elapsed = frame.pts - first if frame.pts is not None else count / (source.fps or 1.0)
        if not wait(begun + elapsed - time.monotonic()):
            return
        yield replace(frame, captured_at=time.time(), captured_ns=time.monotonic_ns())
