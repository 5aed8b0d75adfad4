"""RTSP messages and interleaved packets: ``Splitter`` takes them out of the bytes of a connection (RFC 2326).

Servers are read leniently: names of headers in any case, lines that end with LF alone, empty lines between messages,
packets between the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vitedge.runtime.sources.rtsp.errors import RtspError
from vitedge.safety.limits import RTSP_BODY_BYTES, RTSP_HEAD_BYTES, RTSP_HEADERS

PROTOCOL = b"RTSP/"
_DOLLAR = 0x24
_GAPS = b"\r\n"
_SHOWN = 40
_LONGEST_LINE = 4_096
"""Of a request of the server."""
_MOST_SKIPPED = 1 << 20
"""Bytes that are neither a message nor a packet, after which a connection is given up."""


@dataclass(frozen=True)
class Message:
    """A request or an answer.

    Attributes:
        start: its first line.
        headers: names in small letters, and values, in their order.
        body: what follows the headers.
    """

    start: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def status(self) -> int | None:
        """Return the number of an answer, such as 200; None for a request."""
        words = self.start.split(None, 2)
        if not self.start.startswith(PROTOCOL.decode()):
            return None
        return (
            int(words[1])
            if len(words) > 1 and words[1].isascii() and words[1].isdecimal() and len(words[1]) == 3
            else 0
        )

    @property
    def reason(self) -> str:
        """Return the words of an answer's first line."""
        return " ".join(self.start.split()[2:])[:_SHOWN]

    @property
    def method(self) -> str:
        """Return the first word of a request."""
        return self.start.partition(" ")[0]

    def header(self, name: str) -> str:
        """Return the first value of a header; empty if there is none."""
        return next(iter(self.values(name)), "")

    def values(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for each, value in self.headers if each == name]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A packet of RTP or RTCP between the messages.

    Attributes:
        channel: its channel.
        payload: its bytes.
    """

    channel: int
    payload: bytes


Item: TypeAlias = Message | Interleaved


class Splitter:
    """Takes messages and packets out of a stream of bytes.

    Attributes:
        channels: channels that were agreed on; where there are some, bytes that are neither a message nor a packet are
            skipped, as far as the next one of them.
    """

    def __init__(self) -> None:
        self.channels: frozenset[int] = frozenset()
        self._buffer = bytearray()
        self._skipped = 0

    def feed(self, data: bytes) -> list[Item]:
        """Return the messages and packets that are complete now.

        Raises:
            RtspError: the bytes are not RTSP, or a message exceeds a bound.
        """
        self._buffer += data
        found: list[Item] = []
        at = 0
        while at < len(self._buffer):
            end, item = self._next(at)
            if end == at:
                break
            at = end
            if item is not None:
                self._skipped = 0
                found.append(item)
        del self._buffer[:at]
        return found

    def _next(self, at: int) -> tuple[int, Item | None]:
        """Return where the next item ends, and the item; ``at`` itself if it is not complete."""
        first = self._buffer[at]
        if first == _DOLLAR:
            return self._packet(at)
        if first in _GAPS:
            return self._skip(at, at + 1)
        if not self._may_be_message(at):
            return self._resynchronized(at)
        return self._message(at)

    def _packet(self, at: int) -> tuple[int, Item | None]:
        if len(self._buffer) < at + 4:
            return at, None
        end = at + 4 + int.from_bytes(self._buffer[at + 2 : at + 4], "big")
        if len(self._buffer) < end:
            return at, None
        return end, Interleaved(self._buffer[at + 1], bytes(self._buffer[at + 4 : end]))

    def _may_be_message(self, at: int) -> bool:
        """Decide whether the bytes of a first line that came so far may belong to an RTSP message."""
        begin = bytes(self._buffer[at : at + len(PROTOCOL)])
        if PROTOCOL.startswith(begin) or begin == PROTOCOL:
            return True
        end = self._buffer.find(b"\n", at, at + _LONGEST_LINE)
        line = bytes(self._buffer[at : end if end >= 0 else at + _LONGEST_LINE])
        method = line.partition(b" ")[0]
        is_method = method.replace(b"_", b"").isupper() and len(method) <= _SHOWN
        if not is_method or not line.isascii() or b"\0" in line or len(line) == _LONGEST_LINE:
            return False
        return end < 0 or line.rstrip().rpartition(b" ")[2].startswith(PROTOCOL)

    def _resynchronized(self, at: int) -> tuple[int, None]:
        if not self.channels:
            raise RtspError("it does not speak RTSP on this port")
        marks = (PROTOCOL, *(bytes((_DOLLAR, each)) for each in self.channels))
        places = (self._buffer.find(each, at + 1) for each in marks)
        rest = max(at + 1, len(self._buffer) - len(PROTOCOL))
        return self._skip(at, min((each for each in places if each >= 0), default=rest))

    def _skip(self, at: int, end: int) -> tuple[int, None]:
        self._skipped += end - at
        if self._skipped > _MOST_SKIPPED:
            raise RtspError("it sends nothing that is RTSP")
        return end, None

    def _message(self, at: int) -> tuple[int, Item | None]:
        ends = [
            place + len(mark)
            for mark in (b"\n\r\n", b"\n\n")
            if (place := self._buffer.find(mark, at, at + RTSP_HEAD_BYTES)) >= 0
        ]
        if not ends:
            if len(self._buffer) - at >= RTSP_HEAD_BYTES:
                raise RtspError(f"the head of an answer has more than {RTSP_HEAD_BYTES} bytes")
            return at, None
        start, headers = _parse_head(bytes(self._buffer[at : min(ends)]))
        end = min(ends) + _body_length(headers)
        if len(self._buffer) < end:
            return at, None
        return end, Message(start, headers, bytes(self._buffer[min(ends) : end]))


def _parse_head(head: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    lines = head.decode("utf-8", "replace").replace("\r", "").split("\n")
    headers: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and headers and line.strip():
            headers[-1] = headers[-1][0], f"{headers[-1][1]} {line.strip()}".strip()
        elif colon:
            headers.append((name.strip().lower(), value.strip()))
        if len(headers) > RTSP_HEADERS:
            raise RtspError(f"an answer has more than {RTSP_HEADERS} headers")
    return lines[0].strip(), tuple(headers)


def _body_length(headers: Sequence[tuple[str, str]]) -> int:
    stated = next((value for name, value in headers if name == "content-length"), "0")
    if not (stated.isascii() and stated.isdecimal() and len(stated) < 12) or int(stated) > RTSP_BODY_BYTES:
        raise RtspError(f"an answer states a length of {stated[:_SHOWN]} bytes; {RTSP_BODY_BYTES} are the most")
    return int(stated)


def write_message(start: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return the bytes of a request or an answer without a body.

    Raises:
        RtspError: a value, which may come from the server, holds a control character.
    """
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    if any(ord(letter) < ord(" ") or letter == "\x7f" for line in lines for letter in line):
        raise RtspError("a value of its answers holds control characters")
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")


def write_interleaved(channel: int, payload: bytes) -> bytes:
    """Return the bytes of a packet between messages."""
    return bytes((_DOLLAR, channel)) + len(payload).to_bytes(2, "big") + payload
