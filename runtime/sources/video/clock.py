"""Clocks: when the frames of a live source were captured, on ``time.monotonic_ns``.

A stream's timestamps say how far its frames are apart, not when they were captured. ``TimestampClock`` takes the packet
that came with the least delay for one without delay: the least difference between the arrival of a packet and its
timestamp turns every timestamp into a time of this machine, and a packet is as old as it came later than that. It only
sees differences: the delay that all packets share stays hidden, unless the sender's own clock is known and believable.

Frames that waited in a buffer before they were read come faster than they were captured. A clock calls them backlog,
until a read had to wait for its packet.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from vitedge.prediction import AgeBasis

SECOND = 1_000_000_000

DRIFT = 200e-6
"""How fast the least delay is forgotten, in seconds a second: twice as fast as a camera's clock goes wrong."""
WAITED_NS = 1_000_000
"""A shorter read found its packet here, and says nothing about the network."""
FARTHEST_BACK_NS = 2 * SECOND
"""A timestamp may be this much before the last one (B-frames); more is a jump."""
SHIFTED_NS = SECOND // 2
SHIFT_WINDOW_NS, SHIFT_WINDOWS, SHIFT_SPREAD_NS = 2 * SECOND, 5, SECOND // 10
"""A greater delay that neither shrinks nor grows over these windows is a clock that was set, and no queue."""
SENDER_BEFORE_NS, SENDER_AFTER_NS = 5_000_000, SECOND // 2
"""The sender's clock is believed if it says that the quickest packet took between minus this and this."""
SENDER_AFTER_READING_NS = 2 * SECOND

WAITED_FOR = 0.3
"""A read that took this part of the distance between two frames had to wait for the camera."""
GAINED = 0.5
"""A packet that was not waited for, and gains this part of it on the quickest one, is one of a queue."""
CATCHING_UP = 1.1
CATCHING_UP_NS = SECOND // 2
"""Frames that come no faster than this many seconds a second are not catching up, however long their reads take."""
LONGEST_BACKLOG_NS = 10 * SECOND
"""No buffer takes longer to empty; a sender that is faster for longer sends a recording."""
EARLY_NS = 5 * SECOND
FRESH_NS, OLDEST_IN_DRIVER_NS = SECOND // 10, 10 * SECOND
TYPICAL_DISTANCE_NS, LEAST_DISTANCE_NS = SECOND // 30, SECOND // 1000


@dataclass(frozen=True)
class Capture:
    """When a frame was captured.

    Attributes:
        at_ns: time on ``time.monotonic_ns``.
        basis: where it comes from.
    """

    at_ns: int
    basis: AgeBasis


class Clock(Protocol):
    """Is told of every packet of a source, and asked for every frame."""

    @property
    def backlog(self) -> bool:
        """Return whether the last packet waited in a buffer before reading began."""

    def arrived(self, time_ns: int | None, at_ns: int, waited_ns: int) -> None:
        """Take note of a packet.

        Args:
            time_ns: its presentation timestamp; None if it has none.
            at_ns: when it was read.
            waited_ns: how long the read took.
        """

    def captured(self, time_ns: int | None, at_ns: int) -> Capture:
        """Return when a frame was captured.

        Args:
            time_ns: its presentation timestamp; None if it has none.
            at_ns: when it was read.
        """

    def sender_says(self, zero_ns: int) -> None:
        """Take note of when timestamp 0 was, by the sender's clock, converted to ``time.monotonic_ns``."""


class Backlog:
    """Finds out when a source has caught up with the present.

    Args:
        settles_ns: how long frames count as backlog in any case.
    """

    def __init__(self, *, settles_ns: int = 0) -> None:
        self.is_ahead = True
        self._settles_ns = settles_ns
        self._first: tuple[int, int | None] | None = None
        self._last_ns: int | None = None
        self._newest_ns: int | None = None

    def arrived(self, time_ns: int | None, at_ns: int, waited_ns: int, *, gained_ns: int = 0) -> None:
        """Take note of a packet.

        Args:
            time_ns: its timestamp; None if it has none.
            at_ns: when it was read.
            waited_ns: how long the read took.
            gained_ns: by how much it came with less delay than any before it.
        """
        if self._first is None or (self._first[1] is None and time_ns is not None):
            self._first = at_ns, time_ns  # the first packets of RTSP may have no time
        distance = self._distance(time_ns)
        waited = waited_ns >= WAITED_FOR * distance
        if self.is_ahead:
            has_settled = at_ns - self._first[0] >= self._settles_ns
            self.is_ahead = not (waited and has_settled) and self._is_catching_up(time_ns, at_ns)
        elif gained_ns > GAINED * distance and not waited:
            self.is_ahead = at_ns - self._first[0] < EARLY_NS and self._is_catching_up(time_ns, at_ns)

    def _distance(self, time_ns: int | None) -> int:
        """Return the time between a packet and the last one, as far as timestamps tell it."""
        last, self._last_ns = self._last_ns, time_ns
        if last is None or time_ns is None or time_ns <= last:
            return TYPICAL_DISTANCE_NS
        return min(max(time_ns - last, LEAST_DISTANCE_NS), SECOND)

    def _is_catching_up(self, time_ns: int | None, at_ns: int) -> bool:
        assert self._first is not None
        began_ns, first_ns = self._first
        elapsed = at_ns - began_ns
        if elapsed > LONGEST_BACKLOG_NS:
            return False
        if time_ns is None or first_ns is None:
            return elapsed < 2 * CATCHING_UP_NS
        self._newest_ns = max(time_ns, self._newest_ns if self._newest_ns is not None else time_ns)
        return elapsed < CATCHING_UP_NS or self._newest_ns - first_ns > CATCHING_UP * elapsed


class ArrivalClock:
    """For a source without timestamps: a frame is as old as its reading, if it did not wait before.

    Args:
        buffered: whether frames may wait in a buffer before they are read.
    """

    def __init__(self, *, buffered: bool = True) -> None:
        self._backlog = Backlog() if buffered else None

    @property
    def backlog(self) -> bool:
        """Return whether the last packet waited in a buffer before reading began."""
        return self._backlog is not None and self._backlog.is_ahead

    def arrived(self, time_ns: int | None, at_ns: int, waited_ns: int) -> None:  # noqa: ARG002
        """Take note of a packet."""
        if self._backlog is not None:
            self._backlog.arrived(None, at_ns, waited_ns)

    def captured(self, time_ns: int | None, at_ns: int) -> Capture:  # noqa: ARG002
        """Return the time of reading."""
        return Capture(at_ns, "arrival")

    def sender_says(self, zero_ns: int) -> None:
        """Ignore the sender's clock, because no timestamp refers to it."""


class TimestampClock:
    """Times of capture from the timestamps of a stream.

    Args:
        behind: packets by which FFmpeg is behind the network. A parser that knows the end of a picture by the beginning
            of the next one is one behind: when it gives a packet, the next one has begun to arrive.
        settles_ns: how long frames count as backlog in any case. A client that does not probe hands out the first ones,
            whose delay is not yet known to be the least.
    """

    def __init__(self, *, behind: int = 0, settles_ns: int = 0) -> None:
        self._arrivals: deque[int] = deque(maxlen=behind + 1)
        self._backlog = Backlog(settles_ns=settles_ns)
        self._zero_ns: int | None = None
        self._last: tuple[int, int] = (0, 0)
        self._shift = _Shift()
        self._sender_zero_ns: int | None = None
        self._sender_delay_ns: int | None = None
        self._began_ns: int | None = None

    @property
    def backlog(self) -> bool:
        """Return whether the last packet waited in a buffer before reading began."""
        return self._backlog.is_ahead

    def sender_says(self, zero_ns: int) -> None:
        """Take note of when timestamp 0 was, by the sender's clock, converted to ``time.monotonic_ns``."""
        self._sender_zero_ns = zero_ns

    def arrived(self, time_ns: int | None, at_ns: int, waited_ns: int) -> None:
        """Take note of a packet."""
        if time_ns is None:
            self._backlog.arrived(None, at_ns, waited_ns)
            return
        self._arrivals.append(at_ns)
        zero, before = self._arrivals[0] - time_ns, self._zero_ns
        last_time, last_at = self._last
        self._last = time_ns, at_ns
        if before is None or time_ns < last_time - FARTHEST_BACK_NS:
            self._restart(zero, at_ns)
        else:
            leak = DRIFT * min(at_ns - last_at, SECOND) if waited_ns >= WAITED_NS else 0
            self._zero_ns = min(zero, before + int(leak))
            shifted = self._shift.seen(zero - self._zero_ns, at_ns, waited=waited_ns >= WAITED_NS)
            if shifted:
                self._restart(self._zero_ns + shifted, at_ns)
        gained = 0 if before is None else before - zero
        self._backlog.arrived(time_ns, at_ns, waited_ns, gained_ns=gained)

    def captured(self, time_ns: int | None, at_ns: int) -> Capture:
        """Return when a frame was captured."""
        if time_ns is None or self._zero_ns is None:
            return Capture(at_ns, "arrival")
        delay = self._delay_by_sender(at_ns)
        captured = min(self._zero_ns + time_ns, at_ns)
        return Capture(captured, "timestamps") if delay is None else Capture(captured - delay, "sender")

    def _restart(self, zero_ns: int, at_ns: int) -> None:
        self._zero_ns, self._began_ns = zero_ns, at_ns
        self._sender_delay_ns = None
        self._shift = _Shift()

    def _delay_by_sender(self, at_ns: int) -> int | None:
        """Return how long the quickest packet took, by the sender's clock; None if that is unknown or not believable.

        It is found once, because the two clocks drift apart.
        """
        if self._sender_delay_ns is not None or self._sender_zero_ns is None:
            return self._sender_delay_ns
        if self._zero_ns is None or self._began_ns is None or at_ns - self._began_ns < SENDER_AFTER_READING_NS:
            return None
        delay = self._zero_ns - self._sender_zero_ns
        self._sender_zero_ns = None
        if -SENDER_BEFORE_NS <= delay <= SENDER_AFTER_NS:
            self._sender_delay_ns = max(0, delay)
        return self._sender_delay_ns


class _Shift:
    """Finds that all packets come later by the same time than the quickest one did: the sender's clock stood still."""

    def __init__(self) -> None:
        self._least: deque[int] = deque(maxlen=SHIFT_WINDOWS)
        self._window: tuple[int, int] | None = None
        self._waited = False

    def seen(self, delay_ns: int, at_ns: int, *, waited: bool) -> int:
        """Take note of the delay of a packet against the quickest; return the shift, or 0."""
        if delay_ns < SHIFTED_NS:
            self.__init__()  # type: ignore[misc]
            return 0
        self._waited = self._waited or waited
        began, least = self._window or (at_ns, delay_ns)
        self._window = began, min(least, delay_ns)
        if at_ns - began < SHIFT_WINDOW_NS:
            return 0
        self._least.append(min(least, delay_ns))
        self._window = None
        is_steady = len(self._least) == SHIFT_WINDOWS and max(self._least) - min(self._least) < SHIFT_SPREAD_NS
        return min(self._least) if is_steady and self._waited else 0


class DeviceClock:
    """For a camera whose driver stamps its frames on the monotonic clock, as V4L2 does."""

    def __init__(self) -> None:
        self._otherwise = TimestampClock()
        self._began_ns: int | None = None
        self._waited_in_queue = False

    @property
    def backlog(self) -> bool:
        """Return whether the last frame waited in the driver's queue before reading began."""
        return self._waited_in_queue

    def arrived(self, time_ns: int | None, at_ns: int, waited_ns: int) -> None:
        """Take note of a frame."""
        self._otherwise.arrived(time_ns, at_ns, waited_ns)
        if self._began_ns is None:
            self._began_ns = at_ns - waited_ns
        if _is_on_this_clock(time_ns, at_ns):
            self._waited_in_queue = time_ns is not None and time_ns < self._began_ns - FRESH_NS
        else:
            self._waited_in_queue = self._otherwise.backlog

    def captured(self, time_ns: int | None, at_ns: int) -> Capture:
        """Return the driver's time, unless it is on another clock."""
        if time_ns is not None and _is_on_this_clock(time_ns, at_ns):
            return Capture(time_ns, "device")
        return self._otherwise.captured(time_ns, at_ns)

    def sender_says(self, zero_ns: int) -> None:
        """Ignore the sender's clock: the driver's is better."""


def _is_on_this_clock(time_ns: int | None, at_ns: int) -> bool:
    return time_ns is not None and 0 <= at_ns - time_ns <= OLDEST_IN_DRIVER_NS
