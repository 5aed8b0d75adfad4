"""``Session``: plays the video track of an address, and reads its access units."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from vitedge.runtime.sources.addresses import Address
from vitedge.runtime.sources.rtsp.access_units import AccessUnit, Assembler
from vitedge.runtime.sources.rtsp.connection import Datagrams, Waker, timed_out, wait_for_any
from vitedge.runtime.sources.rtsp.control import Control, LookUp, clean
from vitedge.runtime.sources.rtsp.depacketizers import DEPACKETIZERS
from vitedge.runtime.sources.rtsp.errors import RtspError, StatusError, TransportError
from vitedge.runtime.sources.rtsp.messages import Message
from vitedge.runtime.sources.rtsp.rtcp import Goodbye, Reception, SenderReport, parse_rtcp
from vitedge.runtime.sources.rtsp.rtp import RtpPacket, Sequence, parse_rtp
from vitedge.runtime.sources.rtsp.sdp import PROFILES, Description, Track, parse_description

SECOND = 1_000_000_000
REORDERED_PACKETS = 200
REORDERED_NS = SECOND // 5
"""How long, and for how many packets, a packet by UDP is waited for that was overtaken."""
FIRST_REPORT_NS, REPORT_NS = SECOND, 5 * SECOND
"""When the first report of what came is sent, and how often: some servers drop clients that send none."""
DEFAULT_SESSION_SECONDS, LONGEST_SESSION_SECONDS = 60, 3600
SEND_SECONDS = 2.0
AGREEMENT_NS = SECOND // 50
"""Two reports of a sender's clock that differ by more are not believed."""
LEAST_BETWEEN_NS = SECOND
"""Two reports that are nearer to each other agree in any case."""
_UNSUPPORTED_TRANSPORT = 461
_PUNCH = bytes((0x80, *bytes(11)))
"""An empty packet, which opens the way through a router."""


@dataclass(frozen=True)
class _Said:
    """What a report said of the sender's clock, in nanoseconds since the Unix epoch.

    Attributes:
        source: number of the sender.
        wall_ns: its time.
        zero_ns: its time when the timestamp was 0.
    """

    source: int
    wall_ns: int
    zero_ns: int


class Session:
    """A stream of one address: first it is described, then a track of it is played.

    Args:
        address: the address.
        look_up: finds the numbers of a host.
        timeout: seconds until the track plays.

    Attributes:
        description: the tracks of the address.
        is_encrypted: whether its connection uses TLS.
        lost: packets that were lost.
        received: packets that came.

    Raises:
        OSError: the server cannot be reached, or not in time.
        RtspError: it answers with an error, or not as RTSP does.
    """

    def __init__(self, address: Address, look_up: LookUp, timeout: float) -> None:
        self.is_encrypted = address.scheme == "rtsps"
        self._control = Control(address, look_up, time.monotonic() + timeout)
        self._waker = Waker()
        self._datagrams: Datagrams | None = None
        self._selector = selectors.DefaultSelector()
        self._session = ""
        self._is_set_up = False
        self._units: deque[AccessUnit] = deque()
        self._is_over = False
        self._said: _Said | None = None
        self._sender_zero_ns: int | None = None
        try:
            self._methods = self._ask_methods()
            answer = self._control.describe()
            self.description = _described(answer)
            base = answer.header("content-base") or answer.header("content-location") or self._control.uri
            self._base = clean(base) if "://" in base else self._control.uri
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        """Return the number of packets that were lost."""
        return self._sequence.lost

    @property
    def received(self) -> int:
        """Return the number of packets that came."""
        return self._sequence.received

    def play(self, track: Track, transports: tuple[str, ...]) -> None:
        """Set a track up, by the first of some transports that the server offers, and play it.

        Args:
            track: one of the description whose codec is in ``DEPACKETIZERS``.
            transports: ``tcp`` and ``udp``, in the order in which they are asked for.

        Raises:
            TransportError: the server offers none of them.
            OSError: the connection broke, or no answer came in time.
            RtspError: it answers with an error, or not as RTSP does.
        """
        self._track = track
        by_udp = self._set_up(_joined(self._base, track.control), transports) == "udp"
        self._sequence = Sequence(most=REORDERED_PACKETS if by_udp else 0, wait_ns=REORDERED_NS)
        self._reception = Reception(self._sequence, track.clock_rate)
        self._assembler = Assembler(DEPACKETIZERS[track.codec]())
        self._source = 0
        self._aggregate = _joined(self._base, self.description.control)
        self._control.request("PLAY", self._aggregate, [*self._named(), ("Range", "npt=0.000-")])
        now = time.monotonic_ns()
        self._alive_ns, self._report_ns = now + self._keep_alive_ns, now + FIRST_REPORT_NS
        self._selector.register(self._control.connection, selectors.EVENT_READ)
        self._selector.register(self._waker, selectors.EVENT_READ)
        if self._datagrams is not None:
            for each in self._datagrams.filenos():
                self._selector.register(each, selectors.EVENT_READ)
            self._datagrams.send(0, _PUNCH, self._ports[0])

    def read(self, timeout: float) -> AccessUnit | None:
        """Return the next access unit; None at the end of the stream, and after ``interrupt``.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            OSError: the connection broke.
            RtspError: what comes is not RTSP.
        """
        deadline_ns = time.monotonic_ns() + int(timeout * SECOND)
        while not self._units:
            now_ns = time.monotonic_ns()
            if self._waker.is_set or self._is_over:
                return None
            if now_ns >= deadline_ns:
                raise timed_out()
            self._send_what_is_due(now_ns)
            self._receive(deadline_ns, now_ns)
        return self._units.popleft() if not self._waker.is_set else None

    def sender_zero_ns(self) -> int | None:
        """Return when the timestamp 0 was by the sender's clock, in nanoseconds since the Unix epoch.

        It is returned once, and None otherwise: when two reports agree. A single one may be of a clock that was set
        after it, or of a time at which nothing was captured.
        """
        found, self._sender_zero_ns = self._sender_zero_ns, None
        return found

    def interrupt(self) -> None:
        """End ``read`` at once, in another thread or from a signal handler; a second call does nothing."""
        self._waker.set()

    def close(self) -> None:
        """Say goodbye, without waiting for an answer, and close all sockets; a second call does nothing."""
        if self._is_set_up:
            self._control.deadline = time.monotonic()
            with contextlib.suppress(OSError, RtspError):
                self._control.send("TEARDOWN", self._aggregate, self._named())
        self._is_set_up = False
        self._selector.close()
        for each in (self._control, self._datagrams, self._waker):
            if each is not None:
                each.close()

    def _ask_methods(self) -> str:
        """Return what the server can do; some cannot even tell that."""
        try:
            return self._control.request("OPTIONS", self._control.uri).header("public").upper()
        except StatusError as error:
            if error.cause == "auth":
                raise
            return ""

    def _set_up(self, uri: str, transports: tuple[str, ...]) -> str:
        """Agree on a transport, and return it."""
        for transport in transports:
            try:
                self._ask_for(transport, uri)
            except TransportError:
                continue
            except StatusError as error:
                if error.status != _UNSUPPORTED_TRANSPORT:
                    raise
                continue
            return transport
        raise TransportError(f"it does not offer RTP by {' or '.join(each.upper() for each in transports)}")

    def _ask_for(self, transport: str, uri: str) -> None:
        if transport == "udp":
            self._datagrams = Datagrams(self._control.connection.local, self._control.connection.peer[1])
            port = self._datagrams.port
            wanted = f"RTP/AVP;unicast;client_port={port}-{port + 1}"
        else:
            wanted = "RTP/AVP/TCP;unicast;interleaved=0-1"
        answer = self._control.request("SETUP", uri, [("Transport", wanted), *self._named()])
        self._take_session(answer.header("session"))
        agreed = [each.strip().lower() for each in answer.header("transport").partition(",")[0].split(";")]
        if (transport == "tcp") != agreed[0].endswith("/tcp") or "multicast" in agreed:
            raise TransportError("it agrees to another transport than it was asked for")
        if self._datagrams is not None:
            self._ports = _pair(agreed, "server_port=", (0, 0))
            self._datagrams.senders |= {each[len("source=") :] for each in agreed if each.startswith("source=")}
        else:
            self._ports = _pair(agreed, "interleaved=", (0, 1))
            self._control.expect_channels(frozenset(self._ports))

    def _named(self) -> list[tuple[str, str]]:
        """Return the header that names the session; some servers give it no name."""
        return [("Session", self._session)] if self._session else []

    def _take_session(self, header: str) -> None:
        name, *parameters = (each.strip() for each in header.split(";"))
        self._session, self._is_set_up = name, True
        self._aggregate = self._base
        stated = {key.strip().lower(): value.strip() for key, _, value in (each.partition("=") for each in parameters)}
        seconds = stated.get("timeout", "")
        is_number = seconds.isascii() and seconds.isdecimal() and len(seconds) < 7
        lasts = min(int(seconds) if is_number else 0, LONGEST_SESSION_SECONDS) or DEFAULT_SESSION_SECONDS
        self._keep_alive_ns = lasts * SECOND // 2

    def _send_what_is_due(self, now_ns: int) -> None:
        self._control.deadline = time.monotonic() + SEND_SECONDS
        if now_ns >= self._alive_ns:
            self._alive_ns = now_ns + self._keep_alive_ns
            method = "GET_PARAMETER" if "GET_PARAMETER" in self._methods else "OPTIONS"
            self._control.send(method, self._aggregate, self._named())
        if now_ns >= self._report_ns and self._sequence.received:
            self._report_ns = now_ns + REPORT_NS
            report = self._reception.report(self._source, now_ns)
            if self._datagrams is not None:
                self._datagrams.send(1, report, self._ports[1])
            else:
                self._control.send_packet(self._ports[1], report)

    def _receive(self, deadline_ns: int, now_ns: int) -> None:
        """Wait for packets, or until something is due, and take what is there."""
        ready = wait_for_any(self._selector, self._seconds_to_wait(deadline_ns, now_ns))
        now_ns = time.monotonic_ns()
        if self._datagrams is not None:
            for which, number in enumerate(self._datagrams.filenos()):
                for data in self._datagrams.receive(which) if number in ready else ():
                    self._take(which, data, now_ns)
        if self._control.connection.fileno() in ready or self._control.has_pending():
            self._receive_by_connection(now_ns)
        self._put_together(self._sequence.expired(now_ns))
        if self._is_over or (self._assembler.ends_ns or now_ns + 1) <= now_ns:
            self._units.extend(self._assembler.after_silence())

    def _seconds_to_wait(self, deadline_ns: int, now_ns: int) -> float:
        if self._control.has_pending():
            return 0.0
        due = [deadline_ns, self._alive_ns]
        if self._sequence.received:
            due.append(self._report_ns)
        due += [each for each in (self._sequence.expires_ns, self._assembler.ends_ns) if each is not None]
        return (min(due) - now_ns) / SECOND

    def _receive_by_connection(self, now_ns: int) -> None:
        packets = self._control.receive()
        self._is_over = self._is_over or packets is None
        for packet in packets or ():
            if packet.channel in self._ports and self._datagrams is None:
                self._take(self._ports.index(packet.channel), packet.payload, now_ns)
        if self._control.take_challenge():
            self._alive_ns = now_ns

    def _take(self, which: int, data: bytes, now_ns: int) -> None:
        """Take a packet of RTP (0) or RTCP (1)."""
        if which:
            self._hear(data, now_ns)
            return
        packet = parse_rtp(data, now_ns)
        if packet is not None and packet.payload_type == self._track.payload_type:
            self._source = packet.source
            self._reception.arrived(packet)
            self._put_together(self._sequence.push(packet))

    def _put_together(self, packets: list[tuple[RtpPacket, int]]) -> None:
        for packet, lost in packets:
            self._units.extend(self._assembler.push(packet, lost))

    def _hear(self, data: bytes, now_ns: int) -> None:
        for said in parse_rtcp(data):
            if said.source != self._source:
                continue
            if isinstance(said, Goodbye):
                self._is_over = True
            else:
                self._reception.heard(said, now_ns)
                self._compare(said)

    def _compare(self, report: SenderReport) -> None:
        """Believe the sender's clock once two reports agree; one that follows another at once says nothing new."""
        before, ticks = self._said, self._assembler.timestamps.near(report.timestamp)
        zero_ns = report.wall_ns - ticks * SECOND // self._track.clock_rate
        is_same = before is not None and before.source == report.source
        if before is not None and is_same and 0 <= report.wall_ns - before.wall_ns < LEAST_BETWEEN_NS:
            return
        self._said = _Said(report.source, report.wall_ns, zero_ns)
        if before is not None and is_same and report.wall_ns > max(0, before.wall_ns):
            self._sender_zero_ns = zero_ns if abs(zero_ns - before.zero_ns) <= AGREEMENT_NS else None


def playable_track(description: Description) -> Track | None:
    """Return the track that ``Session`` can play: the first video, if it is H.264 or H.265 in the order of decoding."""
    video = next((each for each in description.tracks if each.kind == "video"), None)
    if video is None or video.codec not in DEPACKETIZERS or video.profile not in PROFILES:
        return None
    given = video.parameters
    is_interleaved = given.get("packetization-mode", "") == "2" if video.codec == "H264" else _has_order_numbers(given)
    return None if is_interleaved else video


def _has_order_numbers(parameters: Mapping[str, str]) -> bool:
    """Decide whether the packets of H.265 carry decoding order numbers (RFC 7798, 7.1)."""
    stated = [parameters.get(name, "0") for name in ("sprop-max-don-diff", "sprop-depack-buf-nalus")]
    return any(each not in ("", "0") for each in stated) or parameters.get("tx-mode", "SRST").upper() != "SRST"


def _described(answer: Message) -> Description:
    coding = answer.header("content-encoding").lower()
    if coding not in ("", "identity"):
        raise RtspError(f"it sends its description compressed, as {coding[:20]}, which was not asked for")
    return parse_description(answer.body)


def _joined(base: str, control: str) -> str:
    """Return the address of a track: absolute, or the base with the track's name behind it, as servers expect it."""
    if control in ("", "*"):
        return base
    if "://" in control:
        return clean(control)
    if control.startswith("/"):
        scheme, _, rest = base.partition("://")
        return clean(f"{scheme}://{rest.partition('/')[0]}{control}")
    return clean(f"{base}{'' if base.endswith('/') else '/'}{control}")


def _pair(parameters: list[str], name: str, default: tuple[int, int]) -> tuple[int, int]:
    """Return the two numbers of a parameter such as ``interleaved=0-1``; the second follows the first."""
    text = next((each[len(name) :] for each in parameters if each.startswith(name)), "")
    first, _, second = text.partition("-")
    if not (first.isascii() and first.isdecimal() and len(first) < 6):
        return default
    is_number = second.isascii() and second.isdecimal() and len(second) < 6
    pair = int(first), int(second) if is_number else int(first) + 1
    return pair if max(pair) < 1 << 16 else default
