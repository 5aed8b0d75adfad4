"""RTP packets of access units, as cameras send them: single NAL units, aggregations and fragments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Codec = Literal["H264", "H265"]
START_CODE = b"\0\0\0\1"
PAYLOAD_TYPE = 96
SOURCE = 0x1234ABCD
AGGREGATE = {"H264": 24, "H265": 48}
FRAGMENT = {"H264": 28, "H265": 49}
HEADER = {"H264": 1, "H265": 2}


def nal_units(data: bytes) -> list[bytes]:
    """Return the NAL units of bytes with start codes."""
    return [each for each in re.split(rb"\x00{2,3}\x01", data) if each]


def payloads(codec: Codec, units: Sequence[bytes], size: int = 1200, *, aggregates: bool = False) -> list[bytes]:
    """Return the payloads of NAL units: small ones alone or together, one that is longer than ``size`` in parts."""
    found: list[bytes] = []
    together: list[bytes] = []
    for unit in units:
        if aggregates and len(unit) + 2 + sum(len(each) + 2 for each in together) <= size:
            together.append(unit)
            continue
        found += _joined(codec, together)
        together = []
        found += [unit] if len(unit) <= size else fragments(codec, unit, size)
    return [*found, *_joined(codec, together)]


def fragments(codec: Codec, unit: bytes, size: int) -> list[bytes]:
    """Return the parts of a NAL unit."""
    head, body = unit[: HEADER[codec]], unit[HEADER[codec] :]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    kind = head[0] & 0x1F if codec == "H264" else head[0] >> 1 & 0x3F
    found = []
    for place, part in enumerate(parts):
        flags = kind | 0x80 * (place == 0) | 0x40 * (place == len(parts) - 1)
        found.append(_header(codec, FRAGMENT[codec], head) + bytes((flags,)) + part)
    return found


def _joined(codec: Codec, units: Sequence[bytes]) -> list[bytes]:
    if len(units) < 2:
        return list(units)
    body = b"".join(len(each).to_bytes(2, "big") + each for each in units)
    return [_header(codec, AGGREGATE[codec], units[0]) + body]


def _header(codec: Codec, kind: int, head: bytes) -> bytes:
    if codec == "H264":
        return bytes((head[0] & 0xE0 | kind,))
    return bytes((head[0] & 0x81 | kind << 1, head[1]))


def rtp(
    payload: bytes, number: int, timestamp: int, *, marker: bool = False, kind: int = PAYLOAD_TYPE, source: int = SOURCE
) -> bytes:
    """Return an RTP packet."""
    head = bytes((0x80, kind | 0x80 * marker)) + (number % (1 << 16)).to_bytes(2, "big")
    return head + (timestamp % (1 << 32)).to_bytes(4, "big") + source.to_bytes(4, "big") + payload


class Packetizer:
    """Makes the packets of a stream.

    Args:
        codec: ``H264`` or ``H265``.
        size: most bytes of a payload.
        number: sequence number of the first packet.
        aggregates: whether small NAL units travel together.
        markers: ``last`` for the last packet of a picture, ``every`` for every one, ``none``.
    """

    def __init__(
        self,
        codec: Codec = "H264",
        *,
        size: int = 1200,
        number: int = 65_000,
        aggregates: bool = False,
        markers: Literal["last", "every", "none"] = "last",
    ) -> None:
        self._codec, self._size, self._number = codec, size, number
        self._aggregates, self._markers = aggregates, markers

    def packets(self, data: bytes, timestamp: int) -> list[bytes]:
        """Return the packets of an access unit with start codes."""
        found = payloads(self._codec, nal_units(data), self._size, aggregates=self._aggregates)
        packets = []
        for place, payload in enumerate(found):
            marker = self._markers == "every" or (self._markers == "last" and place == len(found) - 1)
            packets.append(rtp(payload, self._number, timestamp, marker=marker))
            self._number += 1
        return packets


def sender_report(timestamp: int, wall_ns: int, *, source: int = SOURCE) -> bytes:
    """Return a report of a sender whose clock says ``wall_ns``, in nanoseconds since the Unix epoch."""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    body = source.to_bytes(4, "big") + (seconds + 2_208_988_800).to_bytes(4, "big")
    body += (rest * (1 << 32) // 1_000_000_000).to_bytes(4, "big") + (timestamp % (1 << 32)).to_bytes(4, "big")
    return bytes((0x80, 200)) + (6).to_bytes(2, "big") + body + bytes(8)


def goodbye(*, source: int = SOURCE) -> bytes:
    """Return the farewell of a sender."""
    return bytes((0x81, 203, 0, 1)) + source.to_bytes(4, "big")
