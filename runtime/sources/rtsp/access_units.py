"""``Assembler``: puts the packets of a track together to access units, which are coded pictures.

A unit ends with the packet that has RTP's marker. Some servers set no marker, and some set it for parts of a picture.
So markers are not trusted before they have proved right. Until then a unit ends when the next one begins, or when
nothing comes behind a marker for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.runtime.sources.rtsp.depacketizers import Depacketizer
from vitedge.runtime.sources.rtsp.rtp import RtpPacket, Timestamps
from vitedge.runtime.sources.rtsp.sdp import START_CODE
from vitedge.safety.limits import ACCESS_UNIT_BYTES

PROOF, SMALL_PROOF, ENOUGH = 10, 1, 10
"""How much a picture proves whose last packet alone had a marker: one of several packets, one of a single packet; and
how much is enough."""
SILENCE_NS = 20_000_000
"""How long nothing comes behind a marker that is not trusted, until it is taken for the end of the picture."""


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """A coded picture.

    Attributes:
        data: its NAL units, each behind a start code.
        timestamp: when it is shown, in ticks that do not wrap around.
        arrived_ns: when its last packet came, on ``time.monotonic_ns``.
        is_key: whether decoding can begin with it.
        damaged: whether packets of it, or right before it, are lost.
    """

    data: bytes
    timestamp: int
    arrived_ns: int
    is_key: bool = False
    damaged: bool = False


class Assembler:
    """Makes access units of the packets of a track, which come in order.

    Args:
        depacketizer: of its codec.

    Attributes:
        timestamps: the timestamps so far.
    """

    def __init__(self, depacketizer: Depacketizer) -> None:
        self.timestamps = Timestamps()
        self._depacketizer = depacketizer
        self._data = bytearray()
        self._timestamp: int | None = None
        self._arrived_ns = 0
        self._has_picture = self._is_key = self._damaged = False
        self._packets = self._markers = self._proof = 0
        self._was_marked = False
        self._ended: int | None = None

    def push(self, packet: RtpPacket, lost: int) -> list[AccessUnit]:
        """Take a packet; return the access units that are complete now.

        Args:
            packet: the packet.
            lost: packets that are lost before it.
        """
        found: list[AccessUnit] = []
        if lost:
            self._lose()
        timestamp = self.timestamps.unwrapped(packet.timestamp)
        if timestamp != self._timestamp:
            self._end_nal_unit(found)
            self._end_before_next(found)
            self._timestamp = timestamp
            self._damaged = self._damaged or lost > 0
        orphans = self._depacketizer.orphans
        for unit in self._depacketizer.push(packet.payload):
            self._add(unit, found)
        if self._depacketizer.orphans > orphans and self._ended == timestamp:
            self._distrust()
        if self._depacketizer.pending > ACCESS_UNIT_BYTES:
            self._depacketizer.flush()
            self._damaged = True
        self._arrived_ns = packet.arrived_ns
        if packet.marker and self._trusts_markers:
            self._end_nal_unit(found)
            if self._end(found):
                self._ended = timestamp
        self._note_marker(packet)
        return found

    @property
    def ends_ns(self) -> int | None:
        """Return the time when the current picture ends if nothing comes before; None if silence does not end it."""
        may_end = self._has_picture and self._was_marked and not self._trusts_markers
        return self._arrived_ns + SILENCE_NS if may_end else None

    def after_silence(self) -> list[AccessUnit]:
        """Return the picture behind whose marker nothing came; it proves nothing."""
        found: list[AccessUnit] = []
        if self.ends_ns is not None and self._end(found):
            self._ended = self._timestamp
        return found

    @property
    def _trusts_markers(self) -> bool:
        return self._proof >= ENOUGH

    def _note_marker(self, packet: RtpPacket) -> None:
        """Count the packets of a picture, and its markers; markers of parameter sets before it prove nothing."""
        if self._has_picture or self._depacketizer.pending:
            self._packets += 1
            self._markers += packet.marker
        self._was_marked = packet.marker

    def _end_before_next(self, found: list[AccessUnit]) -> None:
        """End the unit because the next one begins, and draw a conclusion from its markers."""
        is_proof = self._has_picture and not self._damaged and not self._trusts_markers
        if is_proof and self._markers == 1 and self._was_marked:
            self._proof += PROOF if self._packets > 1 else SMALL_PROOF
        elif is_proof:
            self._proof = 0
        self._end(found)

    def _distrust(self) -> None:
        """Take note of a part of a picture behind a marker that should have been at its end."""
        self._proof, self._damaged = 0, True

    def _lose(self) -> None:
        """Take note of a loss: a NAL unit whose end is lost is decoded as far as it came."""
        for unit in self._depacketizer.flush():
            self._append(unit)
        self._damaged, self._ended = True, None

    def _end_nal_unit(self, found: list[AccessUnit]) -> None:
        """Take a NAL unit whose end is not marked; it is whole, because no packet is lost."""
        for unit in self._depacketizer.flush():
            self._add(unit, found)

    def _add(self, unit: bytes, found: list[AccessUnit]) -> None:
        role = self._depacketizer.role(unit)
        if role.is_picture:
            if role.begins and self._has_picture and not self._trusts_markers:
                self._end_before_next(found)
            elif not role.begins and not self._has_picture and self._ended == self._timestamp:
                self._distrust()
        self._append(unit)

    def _append(self, unit: bytes) -> None:
        role = self._depacketizer.role(unit)
        self._has_picture = self._has_picture or role.is_picture
        self._is_key = self._is_key or role.is_key
        self._data += START_CODE
        self._data += unit
        if len(self._data) > ACCESS_UNIT_BYTES:
            self._reset()
            self._damaged = True

    def _end(self, found: list[AccessUnit]) -> bool:
        """End the unit, if it has a picture; parameter sets alone belong to the next one."""
        if not self._has_picture or self._timestamp is None:
            return False
        data = bytes(self._data)
        found.append(AccessUnit(data, self._timestamp, self._arrived_ns, self._is_key, self._damaged))
        self._reset()
        return True

    def _reset(self) -> None:
        self._data = bytearray()
        self._has_picture = self._is_key = self._damaged = False
        self._packets = self._markers = 0
