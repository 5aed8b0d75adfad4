"""RTCP (RFC 3550): reports of the sender, which tell its clock, and our reports of what we received."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from vitedge.runtime.sources.rtsp.rtp import RtpPacket, Sequence

_VERSION = 2
_SENDER_REPORT, _RECEIVER_REPORT, _DESCRIPTION, _GOODBYE = 200, 201, 202, 203
_NAME = 1
_NTP_TO_UNIX = 2_208_988_800
_SECOND = 1_000_000_000
_MOST_LOST = 0x7FFFFF


@dataclass(frozen=True)
class SenderReport:
    """What a sender says of its clock.

    Attributes:
        source: number of the sender.
        wall_ns: its time, nanoseconds since the Unix epoch.
        timestamp: the timestamp that its packets had at this time.
        middle: the middle bits of its time, which our report repeats.
    """

    source: int
    wall_ns: int
    timestamp: int
    middle: int


@dataclass(frozen=True)
class Goodbye:
    """A sender leaves.

    Attributes:
        source: its number.
    """

    source: int


def parse_rtcp(data: bytes) -> list[SenderReport | Goodbye]:
    """Return the reports and farewells of a packet; leave out everything else."""
    found: list[SenderReport | Goodbye] = []
    at = 0
    while at + 8 <= len(data) and data[at] >> 6 == _VERSION:
        end = at + 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : min(end, len(data))]
        if data[at + 1] == _SENDER_REPORT and len(body) >= 16:
            found.append(_sender_report(body))
        elif data[at + 1] == _GOODBYE:
            count = min(data[at] & 0x1F, len(body) // 4)
            found += [Goodbye(int.from_bytes(body[4 * each : 4 * each + 4], "big")) for each in range(count)]
        at = end
    return found


def _sender_report(body: bytes) -> SenderReport:
    seconds, fraction = int.from_bytes(body[4:8], "big"), int.from_bytes(body[8:12], "big")
    wall_ns = (seconds - _NTP_TO_UNIX) * _SECOND + (fraction * _SECOND >> 32)
    return SenderReport(
        int.from_bytes(body[:4], "big"),
        wall_ns,
        int.from_bytes(body[12:16], "big"),
        int.from_bytes(body[6:10], "big"),
    )


class Reception:
    """Writes our reports of what came from one sender.

    Args:
        sequence: counts its packets.
        clock_rate: ticks of its timestamps in a second.
    """

    def __init__(self, sequence: Sequence, clock_rate: int) -> None:
        self._sequence, self._clock_rate = sequence, clock_rate
        self._ourselves = secrets.randbits(32)
        self._jitter = 0.0
        self._transit: int | None = None
        self._before = (0, 0)
        self._heard: tuple[SenderReport, int] | None = None

    def arrived(self, packet: RtpPacket) -> None:
        """Take note of a packet, for the jitter (RFC 3550, A.8)."""
        ticks = packet.arrived_ns * self._clock_rate // _SECOND
        transit = (ticks - packet.timestamp) % (1 << 32)
        if self._transit is not None:
            difference = (transit - self._transit + (1 << 31)) % (1 << 32) - (1 << 31)
            self._jitter += (abs(difference) - self._jitter) / 16
        self._transit = transit

    def heard(self, report: SenderReport, now_ns: int) -> None:
        """Take note of a report of the sender."""
        self._heard = report, now_ns

    def report(self, source: int, now_ns: int) -> bytes:
        """Return a report of what came from a sender, and our name."""
        received, lost = self._sequence.received, self._sequence.lost
        new_received, new_lost = received - self._before[0], lost - self._before[1]
        self._before = received, lost
        share = min(255, 256 * new_lost // (new_received + new_lost)) if new_lost > 0 else 0
        middle, delay = 0, 0
        if self._heard is not None:
            middle = self._heard[0].middle
            delay = min((now_ns - self._heard[1]) * 65_536 // _SECOND, (1 << 32) - 1)
        block = b"".join(
            (
                source.to_bytes(4, "big"),
                bytes((share,)),
                min(lost, _MOST_LOST).to_bytes(3, "big"),
                (self._sequence.highest % (1 << 32)).to_bytes(4, "big"),
                min(int(self._jitter), (1 << 32) - 1).to_bytes(4, "big"),
                middle.to_bytes(4, "big"),
                delay.to_bytes(4, "big"),
            )
        )
        ourselves = self._ourselves.to_bytes(4, "big")
        return _packet(_RECEIVER_REPORT, ourselves + block) + _packet(_DESCRIPTION, ourselves + _named("vitedge"))


def _packet(kind: int, body: bytes) -> bytes:
    return bytes((_VERSION << 6 | 1, kind)) + (len(body) // 4).to_bytes(2, "big") + body


def _named(name: str) -> bytes:
    item = bytes((_NAME, len(name))) + name.encode()
    return item + bytes(4 - len(item) % 4)
