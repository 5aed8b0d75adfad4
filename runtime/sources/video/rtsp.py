"""``open_rtsp``: H.264 and H.265 of an RTSP server, by a client of our own; everything else is left to FFmpeg.

FFmpeg's client knows the end of a picture by the beginning of the next one. Ours knows it by RTP's marker, and hands
the picture out a frame earlier.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from vitedge.runtime.sources.addresses import Address
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.sources.rtsp.access_units import AccessUnit
from vitedge.runtime.sources.rtsp.connection import Endpoint
from vitedge.runtime.sources.rtsp.errors import RtspError, TransportError
from vitedge.runtime.sources.rtsp.sdp import Description, Track
from vitedge.runtime.sources.rtsp.session import Session, playable_track
from vitedge.runtime.sources.video.causes import errors_of_pyav
from vitedge.runtime.sources.video.lookup import is_number, look_up
from vitedge.runtime.sources.video.packets import Coded, PacketSource
from vitedge.runtime.sources.video.tracks import LARGEST_FPS, no_video
from vitedge.safety.limits import IMAGE_PIXELS

SHORTEST_OPENING = 0.1
"""Least seconds that FFmpeg has to open what is not played here."""
DECODERS = {"H264": "h264", "H265": "hevc"}
PROBED_SECONDS = 2.0
"""How long opening waits for a key picture, which tells the size and the frame rate."""
UNDECODED_SECONDS = 5.0
"""Pictures before the first key picture are skipped for so long; then the decoder is left to begin where it can."""


def open_rtsp(
    address: Address, name: str, options: NetworkOptions, otherwise: Callable[[float], PacketSource]
) -> PacketSource:
    """Play the first video of an address.

    Args:
        address: ``rtsp://`` or ``rtsps://``.
        name: name in messages, without secrets.
        options: timeouts and transport.
        otherwise: opens by FFmpeg what is not played here, within the seconds that it is given.

    Raises:
        FrameSourceError: the address has no video; ``RtspError`` if the server answers otherwise than expected.
        Exception: one of ``vitedge.runtime.sources.video.causes.errors_of_pyav``, if the server cannot be reached.
    """
    deadline = time.monotonic() + options.open_timeout
    session = Session(address, _numbers_of, options.open_timeout)
    try:
        track = _track_of(session.description, name)
        if track is not None and _plays(session, track, address, options):
            return RtspPackets(session, track, name, options)
        found = _opened_beside(session, lambda: otherwise(max(SHORTEST_OPENING, deadline - time.monotonic())))
    except BaseException:
        session.close()
        raise
    session.close()
    return found


def _opened_beside(session: Session, call: Callable[[], PacketSource]) -> PacketSource:
    """Open a stream by FFmpeg, which describes it once more.

    The first session stays meanwhile: servers that end their pipeline with it refuse the next one for a moment. Servers
    that allow one session get a second request.
    """
    with contextlib.suppress(*errors_of_pyav()):
        return call()
    session.close()
    return call()


class RtspPackets(PacketSource):
    """Packets of a playing session, which they own.

    Args:
        session: the session.
        track: the track that it plays.
        name: name in messages, without secrets.
        options: timeouts.

    Raises:
        OSError: nothing came in time.
        RtspError: the server ended the session before it sent anything.
    """

    def __init__(self, session: Session, track: Track, name: str, options: NetworkOptions) -> None:
        self.name, self.live, self.format = name, True, "rtp"
        self._session, self._track = session, track
        self._time_base = Fraction(1, track.clock_rate)
        self._read_timeout = options.read_timeout
        self._units: deque[AccessUnit] = deque()
        self._began_ns: int | None = None
        self._has_begun = False
        self.context = self._new_context()
        several = sum(each.kind == "video" for each in session.description.tracks)
        self.notices = (f"{name} has {several} video tracks; the first is read",) if several > 1 else ()
        if session.is_encrypted and options.transport == "udp":
            self.notices += (f"{name} comes through its encrypted connection, and not by UDP, as it was asked for",)
        self._probe(options.open_timeout)

    @property
    def losses(self) -> tuple[str, ...]:
        """Say how many packets were lost."""
        lost, received = self._session.lost, self._session.received
        return (f"{lost} of {lost + received} packets were lost on the way",) if lost else ()

    def read(self) -> Coded | None:
        """Return the next access unit; None at the end."""
        unit = self._units.popleft() if self._units else self._next_unit(self._read_timeout)
        return None if unit is None else self._coded(unit)

    def decode(self, packet: Any) -> list[Any]:
        """Return the pictures that are complete with an access unit."""
        pictures: list[Any] = self.context.decode(packet)
        return pictures

    def sender_zero_ns(self) -> int | None:
        """Return when timestamp 0 was by the sender's clock, once two of its reports agree."""
        return self._session.sender_zero_ns()

    def interrupt(self) -> None:
        """End a read of another thread at once."""
        self._session.interrupt()

    def close(self) -> None:
        """End the session; a second call does nothing."""
        self._session.close()
        self.context = None

    def _next_unit(self, seconds: float) -> AccessUnit | None:
        try:
            return self._session.read(seconds)
        except RtspError as error:
            raise ConnectionResetError(errno.ECONNRESET, error.problem) from None

    def _coded(self, unit: AccessUnit) -> Coded:
        if self._began_ns is None:
            self._began_ns = unit.arrived_ns
        if unit.is_key or unit.arrived_ns - self._began_ns > UNDECODED_SECONDS * 1e9:
            self._has_begun = True
        packet = self._packet_of(unit)
        return Coded(packet, unit.arrived_ns, is_damaged=unit.damaged, is_decodable=self._has_begun)

    def _packet_of(self, unit: AccessUnit) -> Any:
        import av

        packet = av.Packet(unit.data)
        packet.pts, packet.time_base = unit.timestamp, self._time_base
        return packet

    def _new_context(self) -> Any:
        import av

        context = av.CodecContext.create(DECODERS[self._track.codec], "r")
        if self._track.parameter_sets:
            context.extradata = self._track.parameter_sets
        return context

    def _probe(self, seconds: float) -> None:
        """Wait for a key picture, and find out what its decoder knows; what came until then is kept."""
        until = time.monotonic() + seconds
        while True:
            try:
                unit = self._next_unit(max(0.0, until - time.monotonic()))
            except TimeoutError:
                if not self._units:
                    raise
                return
            if unit is None:
                raise RtspError("it ends the stream before the first picture", cause="eof")
            if not self._units:
                until = min(until, time.monotonic() + PROBED_SECONDS)
            self._units.append(unit)
            if unit.is_key:
                self._ask_decoder(unit)
                return

    def _ask_decoder(self, unit: AccessUnit) -> None:
        context = self._new_context()
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(IMAGE_PIXELS)}
        try:
            context.decode(self._packet_of(unit))
        except errors_of_pyav():
            return
        self.size = context.width, context.height
        rate = context.framerate
        self.fps = float(rate) if rate and 0 < rate <= LARGEST_FPS else None


def _numbers_of(host: str, deadline: float) -> list[Endpoint]:
    if is_number(host):
        return [(AF_INET if ip_address(host.partition("%")[0]).version == 4 else AF_INET6, host)]
    return look_up(host, deadline)


def _track_of(description: Description, name: str) -> Track | None:
    """Return the track to play here; None if FFmpeg has to.

    Raises:
        FrameSourceError: there is no video.
    """
    kinds = {each.kind for each in description.tracks}
    if "video" not in kinds:
        raise no_video(name, kinds)
    track = playable_track(description)
    return track if track is not None and _has_decoder(track) else None


def _has_decoder(track: Track) -> bool:
    import av

    return DECODERS[track.codec] in av.codecs_available


def _plays(session: Session, track: Track, address: Address, options: NetworkOptions) -> bool:
    """Play a track; False if the server offers no transport of ours, and none was asked for."""
    only = "tcp" if address.scheme == "rtsps" else options.transport  # pictures by UDP would not be encrypted
    try:
        session.play(track, (only,) if only else ("tcp", "udp"))
    except TransportError:
        if options.transport:
            raise
        return False
    return True
