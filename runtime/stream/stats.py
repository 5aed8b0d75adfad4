"""Counts of a stream: each captured frame becomes a prediction, or is dropped by one cause, or is under way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

DropCause = Literal["newer", "max_fps", "too_old", "corrupt", "backlog", "at_end"]
"""Why a frame was dropped: a newer one came before it was classified; the camera is faster than ``max_fps``; it was
older than ``max_age_ms``; the decoder concealed lost data; it had waited in a buffer before the stream began; the
stream ended before its prediction was fetched."""

DROP_CAUSES: tuple[DropCause, ...] = get_args(DropCause)
RATE_SECONDS = 5.0
MOST_TICKS = 512


@dataclass(frozen=True)
class ReaderStats:
    """What happened while a source was read.

    Attributes:
        corrupt: frames in which the decoder concealed lost or damaged data, dropped or not.
        late: frames that came in a burst after a stall.
        stalls: times that no frame came for the stall timeout.
        reconnects: connections that delivered frames, after the first.
        left_behind: threads that still run although they were given up, because a source does not answer.
    """

    corrupt: int = 0
    late: int = 0
    stalls: int = 0
    reconnects: int = 0
    left_behind: int = 0


@dataclass(frozen=True)
class StreamStats:
    """Counts of a stream. ``captured`` is ``predicted`` and all that was ``dropped``, and ``under_way`` until the end.

    Attributes:
        captured: frames that the source delivered.
        predicted: predictions that the application fetched.
        dropped: number of dropped frames by cause; every cause is there.
        under_way: frames that are not yet one or the other; 0 once the stream has ended.
        corrupt: frames in which the decoder concealed lost or damaged data, dropped or not.
        late: frames that came in a burst after a stall.
        stalls: times that no frame came for the stall timeout.
        reconnects: connections that delivered frames, after the first.
        left_behind: threads that still run although they were given up, because a source or engine does not answer.
    """

    captured: int
    predicted: int
    dropped: Mapping[DropCause, int]
    under_way: int
    corrupt: int = 0
    late: int = 0
    stalls: int = 0
    reconnects: int = 0
    left_behind: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a dict of plain values; keys are added, never renamed."""
        return {"version": 1, **self.__dict__, "dropped": dict(self.dropped)}


class Ledger:
    """Counts the frames of one source on their way; safe in any thread and signal handler.

    After ``end`` nothing is counted any more, and what was under way counts as dropped ``at_end``.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._captured = 0
        self._predicted = 0
        self._dropped: dict[DropCause, int] = dict.fromkeys(DROP_CAUSES, 0)
        self._last = 0
        self._ended = False
        self._ticks: deque[float] = deque(maxlen=MOST_TICKS)

    def capture(self) -> int:
        """Count a captured frame and return its number, from 1."""
        with self._lock:
            if not self._ended:
                self._captured += 1
            return self._captured

    def drop(self, cause: DropCause) -> None:
        """Count a dropped frame."""
        with self._lock:
            if not self._ended:
                self._dropped[cause] += 1

    def predict(self, number: int) -> int | None:
        """Count a prediction that the application gets, and return the frames dropped since the one before it.

        Args:
            number: number of its frame, from ``capture``; numbers increase.

        Returns:
            The number of frames, or None if the stream has ended: the application must not get the prediction.
        """
        with self._lock:
            if self._ended:
                return None
            self._predicted += 1
            dropped, self._last = number - self._last - 1, number
            self._ticks.append(time.monotonic())
            return dropped

    def end(self) -> None:
        """Stop counting."""
        with self._lock:
            self._ended = True

    @property
    def ended(self) -> bool:
        """Return whether ``end`` was called."""
        return self._ended

    @property
    def fps(self) -> float:
        """Return the predictions per second in the last seconds; 0 if there were fewer than two."""
        now = time.monotonic()
        with self._lock:
            ticks = [tick for tick in self._ticks if now - tick <= RATE_SECONDS]
        if len(ticks) < 2 or ticks[-1] == ticks[0]:
            return 0.0
        interval = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
        silence = now - ticks[-1]
        return (len(ticks) - 1) / (ticks[-1] - ticks[0] + (silence if silence > 2 * interval else 0.0))

    def stats(self, reader: ReaderStats | None = None) -> StreamStats:
        """Return all counts at this moment."""
        with self._lock:
            under_way = self._captured - self._predicted - sum(self._dropped.values())
            dropped = dict(self._dropped)
            if self._ended:
                dropped["at_end"], under_way = under_way, 0
            captured, predicted = self._captured, self._predicted
        return StreamStats(captured, predicted, dropped, under_way, **(reader or ReaderStats()).__dict__)
