"""NAL units from the payloads of RTP packets: H.264 (RFC 6184) and H.265 (RFC 7798), each in the order of decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

_RECOVERY_POINT = 6
_FIRST_FRAGMENT, _LAST_FRAGMENT = 0x80, 0x40


@dataclass(frozen=True, slots=True)
class Role:
    """What a NAL unit is for.

    Attributes:
        is_picture: whether it holds a part of a picture.
        begins: whether it is the first part.
        is_key: whether decoding can begin with its picture.
    """

    is_picture: bool = False
    begins: bool = False
    is_key: bool = False


class Depacketizer(ABC):
    """Takes the payloads of one track in order.

    Attributes:
        pending: bytes of a NAL unit whose end did not come yet.
        orphans: number of fragments that were left out, because nothing came before them.
    """

    def __init__(self) -> None:
        self.orphans = 0
        self._fragment = bytearray()

    @property
    def pending(self) -> int:
        """Return the number of bytes of a NAL unit whose end did not come yet."""
        return len(self._fragment)

    @abstractmethod
    def push(self, payload: bytes) -> list[bytes]:
        """Return the NAL units that are complete with a payload; what is malformed is left out."""

    @abstractmethod
    def role(self, unit: bytes) -> Role:
        """Return what a NAL unit is for."""

    def flush(self) -> list[bytes]:
        """Return what came of a NAL unit whose end is lost, and forget it."""
        rest, self._fragment = bytes(self._fragment), bytearray()
        return [rest] if rest else []

    def _add_fragment(self, flags: int, header: bytes, data: bytes) -> list[bytes]:
        """Take a fragment; one whose beginning is lost is left out."""
        found: list[bytes] = []
        if flags & _FIRST_FRAGMENT:
            found = self.flush()
            self._fragment += header
        if self._fragment:
            self._fragment += data
            if flags & _LAST_FRAGMENT:
                found += self.flush()
        else:
            self.orphans += 1
        return found


class H264(Depacketizer):
    """Single NAL units, STAP-A and FU-A; the interleaved mode is left out."""

    SEI, SLICE, LAST_SLICE, KEY = 6, 1, 5, 5
    AGGREGATE, FRAGMENT = 24, 28

    def push(self, payload: bytes) -> list[bytes]:
        """Return the NAL units that are complete with a payload."""
        kind = payload[0] & 0x1F if payload else 0
        if kind == self.FRAGMENT and len(payload) > 2:
            flags = payload[1]
            return self._add_fragment(flags, bytes((payload[0] & 0xE0 | flags & 0x1F,)), payload[2:])
        if kind == self.AGGREGATE:
            return [*self.flush(), *_aggregated(payload, 1)]
        return [*self.flush(), payload] if 0 < kind < self.AGGREGATE else []

    def role(self, unit: bytes) -> Role:
        """Return what a NAL unit is for."""
        kind = unit[0] & 0x1F
        if self.SLICE <= kind <= self.LAST_SLICE:
            return Role(True, len(unit) > 1 and unit[1] >= 0x80, kind == self.KEY)
        return Role(is_key=kind == self.SEI and _has_recovery_point(unit, 1))


class H265(Depacketizer):
    """Single NAL units, aggregation packets and fragments, without decoding order numbers."""

    SEI, LAST_SLICE, FIRST_KEY, LAST_KEY = 39, 31, 16, 23
    AGGREGATE, FRAGMENT = 48, 49

    def push(self, payload: bytes) -> list[bytes]:
        """Return the NAL units that are complete with a payload."""
        if len(payload) < 3:
            return []
        kind = payload[0] >> 1 & 0x3F
        if kind == self.FRAGMENT:
            header = bytes((payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]))
            return self._add_fragment(payload[2], header, payload[3:])
        if kind == self.AGGREGATE:
            return [*self.flush(), *(each for each in _aggregated(payload, 2) if len(each) > 2)]
        return [*self.flush(), payload] if kind < self.AGGREGATE else []

    def role(self, unit: bytes) -> Role:
        """Return what a NAL unit is for."""
        kind = unit[0] >> 1 & 0x3F
        if kind <= self.LAST_SLICE:
            return Role(True, len(unit) > 2 and unit[2] >= 0x80, self.FIRST_KEY <= kind <= self.LAST_KEY)
        return Role(is_key=kind == self.SEI and _has_recovery_point(unit, 2))


def _aggregated(payload: bytes, at: int) -> list[bytes]:
    """Return the units of an aggregation, each behind its size in two bytes, as far as they are whole."""
    found: list[bytes] = []
    while at + 2 < len(payload):
        end = at + 2 + int.from_bytes(payload[at : at + 2], "big")
        if at + 2 < end <= len(payload):
            found.append(payload[at + 2 : end])
        at = end
    return found


def _has_recovery_point(unit: bytes, at: int) -> bool:
    """Decide whether one of the messages of an SEI unit says that decoding can begin here."""
    while at + 2 < len(unit):
        kind, at = _message_number(unit, at)
        size, at = _message_number(unit, at)
        if kind == _RECOVERY_POINT:
            return True
        at += size
    return False


def _message_number(unit: bytes, at: int) -> tuple[int, int]:
    """Read a number of an SEI message, and return it with the place behind it."""
    number = 0
    while at < len(unit) and unit[at] == 0xFF:
        number, at = number + 0xFF, at + 1
    return (number + unit[at], at + 1) if at < len(unit) else (number, at)


DEPACKETIZERS: dict[str, type[Depacketizer]] = {"H264": H264, "H265": H265}
"""By the name of the codec in a description."""
