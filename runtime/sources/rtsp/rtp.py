"""RTP packets (RFC 3550): their headers, and ``Sequence``, which puts them in order and counts what is lost."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_VERSION = 2
_HEADER = 12
_FIELDS = struct.Struct(">BBHII")
_PADDED, _EXTENDED, _SOURCES = 0x20, 0x10, 0x0F
_MARKED, _TYPE = 0x80, 0x7F
_NUMBERS = 1 << 16
_LARGEST_GAP, _FARTHEST_BACK = 3_000, 500
"""A packet outside of this is of a sender that began again, if the next one follows it (RFC 3550, A.1)."""


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """A packet.

    Attributes:
        payload_type: number of its codec.
        marker: whether it is the last of its picture.
        number: sequence number, 0…65535.
        timestamp: 0…2³²−1.
        source: number of its sender.
        payload: what it carries.
        arrived_ns: when it came, on ``time.monotonic_ns``.
    """

    payload_type: int
    marker: bool
    number: int
    timestamp: int
    source: int
    payload: bytes
    arrived_ns: int = 0


def parse_rtp(data: bytes, arrived_ns: int = 0) -> RtpPacket | None:
    """Parse a packet; return None if the bytes are no packet."""
    if len(data) < _HEADER or data[0] >> 6 != _VERSION:
        return None
    flags, kind, number, timestamp, source = _FIELDS.unpack_from(data)
    begin, end = _HEADER + 4 * (flags & _SOURCES), len(data)
    if flags & _EXTENDED:
        if end < begin + 4:
            return None
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    if flags & _PADDED:
        end -= data[-1]
    if begin > end or (flags & _PADDED and not data[-1]):
        return None
    marked = bool(kind & _MARKED)
    return RtpPacket(kind & _TYPE, marked, number, timestamp, source, data[begin:end], arrived_ns)


class Sequence:
    """Puts the packets of a sender in order.

    Args:
        most: packets that wait for one that was overtaken; 0 where nothing overtakes.
        wait_ns: how long they wait.

    Attributes:
        received: packets that came, without duplicates.
        lost: packets that did not come, or came too late.
        highest: greatest number, counted on when it wraps around.
    """

    def __init__(self, *, most: int, wait_ns: int) -> None:
        self.received = self.lost = 0
        self.highest = 0
        self._most, self._wait_ns = most, wait_ns
        self._next: int | None = None
        self._again: int | None = None
        self._waiting: dict[int, RtpPacket] = {}

    def push(self, packet: RtpPacket) -> list[tuple[RtpPacket, int]]:
        """Take a packet; return the packets that are in order now, each with the number of packets lost before it."""
        if self._next is None:
            self._next = packet.number
        ahead = (packet.number - self._next + _NUMBERS // 2) % _NUMBERS - _NUMBERS // 2
        if not -_FARTHEST_BACK <= ahead <= _LARGEST_GAP:
            return self._begun_again(packet)
        self._again = None
        place = self._next + ahead
        if ahead < 0 or place in self._waiting:
            return []
        self.received += 1
        self._waiting[place] = packet
        return self._in_order(at_least=len(self._waiting) - self._most)

    def expired(self, now_ns: int) -> list[tuple[RtpPacket, int]]:
        """Return the packets that have waited long enough."""
        late = [place for place, each in self._waiting.items() if each.arrived_ns + self._wait_ns <= now_ns]
        return self._in_order(at_least=sum(place <= max(late) for place in self._waiting)) if late else []

    @property
    def expires_ns(self) -> int | None:
        """Return the time when the first waiting packet has waited long enough; None if none waits."""
        oldest = min((each.arrived_ns for each in self._waiting.values()), default=None)
        return None if oldest is None else oldest + self._wait_ns

    def _in_order(self, *, at_least: int) -> list[tuple[RtpPacket, int]]:
        """Take the packets that follow, and then the first of the others, until some number was taken."""
        assert self._next is not None
        found: list[tuple[RtpPacket, int]] = []
        while self._waiting and (self._next in self._waiting or len(found) < at_least):
            place = self._next if self._next in self._waiting else min(self._waiting)
            gap = place - self._next
            self.lost += gap
            found.append((self._waiting.pop(place), gap))
            self._next, self.highest = place + 1, place
        return found

    def _begun_again(self, packet: RtpPacket) -> list[tuple[RtpPacket, int]]:
        if packet.number != self._again:
            self._again = (packet.number + 1) % _NUMBERS
            return []
        assert self._next is not None
        rest = self._in_order(at_least=len(self._waiting))
        cycles = self._next - self._next % _NUMBERS + _NUMBERS
        self._next, self._again, self.highest = cycles + packet.number + 1, None, cycles + packet.number
        self.received += 1
        self.lost += 1  # the one before it, which was taken for a stray
        return [*rest, (packet, 1)]


class Timestamps:
    """Counts timestamps on when they wrap around."""

    def __init__(self) -> None:
        self._last: int | None = None

    def unwrapped(self, timestamp: int) -> int:
        """Return a timestamp as a number that does not wrap around, and note it as the last."""
        self._last = self.near(timestamp)
        return self._last

    def near(self, timestamp: int) -> int:
        """Return a timestamp as a number near the last one."""
        if self._last is None:
            return timestamp
        return self._last + (timestamp - self._last + (1 << 31)) % (1 << 32) - (1 << 31)
