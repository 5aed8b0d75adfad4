"""``Intake``: what becomes of the frames of one source before they are classified."""

from __future__ import annotations

import time
from collections.abc import Callable

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.stream.queue import Job
from vitedge.runtime.stream.stats import DropCause, Ledger
from vitedge.runtime.stream.workers import age_ms

FUTURE_NS = 1_000_000_000
"""By so much a time of capture may lie ahead of the monotonic clock; one that is further ahead is of another clock."""
OWN_CLOCK = ("caller", "arrival")
"""Where times of capture come from that are of this machine's monotonic clock."""


class Intake:
    """Counts the frames of one source, refuses worthless frames, and puts the others into a queue.

    Attributes:
        name: name of the source in predictions; None if it is the only one.
        ledger: counts the frames.

    Args:
        name: as above.
        put: takes a job, waiting if it must; False once no more are wanted.
        max_age_ms: greatest age of a frame; None for any.
        skip_corrupt: whether frames in which the decoder concealed damage are dropped.
    """

    def __init__(
        self, name: str | None, put: Callable[[Job], bool], *, max_age_ms: float | None, skip_corrupt: bool
    ) -> None:
        self.name = name
        self.ledger = Ledger()
        self._put = put
        self._max_age_ms = max_age_ms
        self._skip_corrupt = skip_corrupt

    def deliver(self, frame: Frame) -> bool:
        """Take a frame from the reader, in its thread; False if the stream has ended.

        Raises:
            FrameSourceError: the time of capture is not of the monotonic clock.
        """
        if frame.age_basis in OWN_CLOCK and frame.captured_ns - time.monotonic_ns() > FUTURE_NS:
            raise FrameSourceError(
                f"captured_ns of frame {frame.index} is {frame.captured_ns}, which is in the future",
                expected=f"nanoseconds of the monotonic clock, which are {time.monotonic_ns()} now",
                fix="time.monotonic_ns(); the seconds of the wall clock are captured_at",
            )
        number = self.ledger.capture()
        cause: DropCause | None = None
        if frame.corrupt and self._skip_corrupt:
            cause = "corrupt"
        elif frame.backlog:
            cause = "backlog"
        elif self._is_too_old(age_ms(frame)):
            cause = "too_old"
        if cause is None:
            return self._put(Job(frame, number, self))
        self.ledger.drop(cause)
        return not self.ledger.ended

    def refuses(self, age: float) -> bool:
        """Decide whether a frame of an age, in milliseconds, is too old; it is then counted as dropped."""
        too_old = self._is_too_old(age)
        if too_old:
            self.ledger.drop("too_old")
        return too_old

    def _is_too_old(self, age: float) -> bool:
        return self._max_age_ms is not None and age > self._max_age_ms
