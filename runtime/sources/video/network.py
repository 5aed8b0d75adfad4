"""``open_network``: network cameras and streams, and videos that lie behind an address.

FFmpeg opens the addresses that a server's answers name, as a playlist does. It is given a list of protocols without the
one for files, so that a server cannot read files of this machine, and a list of formats.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any
from urllib.request import getproxies

from vitedge.errors import FrameSourceError
from vitedge.extras import require
from vitedge.runtime.sources.addresses import Address, split_address
from vitedge.runtime.sources.options import NetworkOptions, SourceOptions, options_as
from vitedge.runtime.sources.rtsp.errors import RtspError
from vitedge.runtime.sources.video.causes import Server, errors_of_pyav, fail, opening_error, reading_error
from vitedge.runtime.sources.video.clock import ArrivalClock, Clock, TimestampClock
from vitedge.runtime.sources.video.containers import CONTAINERS
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.lookup import is_number, look_up
from vitedge.runtime.sources.video.packets import ContainerPackets, PacketSource
from vitedge.runtime.sources.video.pyav import open_container
from vitedge.runtime.sources.video.rtsp import open_rtsp
from vitedge.safety.files import is_unicode
from vitedge.safety.limits import VIDEO_BYTES
from vitedge.safety.redact import redact_address

FORMATS = (
    *CONTAINERS,
    *("rtsp", "hls", "dash", "live_flv", "mpjpeg", "jpeg_pipe", "png_pipe"),
    *("aac", "ac3", "eac3", "mp3", "webvtt"),  # the other tracks of a playlist
)
PROTOCOLS = (
    *("rtsp", "rtsps", "rtp", "srtp", "srt", "udp", "tcp", "tls", "http", "https", "httpproxy", "crypto"),
    *("rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts", "ffrtmpcrypt", "ffrtmphttp"),
)

ANALYZED_SECONDS = 2.0
"""Longest time to find out what a stream holds; it ends when the size and codec of the video are known."""
ANALYZED_BYTES = 2_000_000
REORDERED_PACKETS = 200
REORDERED_SECONDS = 0.2
"""How long, and for how many packets, RTP waits for a packet that was overtaken."""
SETTLES_NS = 250_000_000
"""How long our own RTSP client finds out the least delay of a stream; FFmpeg finds out its codec meanwhile."""
WITHOUT_HOST = ("udp", "srt", "tcp")
"""Protocols whose address may be a port of this machine alone."""
HELD_BACK = {("rtsp", "h264"): 1, ("rtsp", "hevc"): 1, ("mpegts", "h264"): 2, ("mpegts", "hevc"): 2}
"""Pictures by which FFmpeg is behind the network, by format and codec.

The end of a picture is known by the beginning of the next one; in MPEG-TS, so is the end of the packet that holds it.
FFmpeg plays H.264 and H.265 by RTSP where our own client does not, such as by multicast.
"""


def open_network(address: str, options: SourceOptions | None = None) -> Decoded:
    """Open a network stream, or a video that lies behind an address. Opening and each read have a timeout.

    A video of known length, such as a file over HTTP, is no live source: its frames wait for their reader.

    Args:
        address: ``rtsp://``, ``rtsps://``, ``http://``, ``https://``, ``rtmp://``, ``srt://``, ``udp://`` or
            ``tcp://``. A user and a password may hold any characters, as they are or with percent codes.
        options: timeouts, transport of RTSP, threads of the decoder, and whether frames keep its planes.

    Raises:
        FrameSourceError: the server does not answer in time, refuses, or sends no video that FFmpeg can decode.
        UsageError: the address or an option is wrong.
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", extra="camera", purpose="reading network streams")
    name = redact_address(address)
    chosen = options_as(NetworkOptions, options, address)
    parts = _checked(address, name)
    server = Server(
        name,
        parts.scheme,
        parts.host.strip("[]"),
        parts.port,
        parts.user is not None or parts.password is not None,
        chosen.open_timeout,
        chosen.read_timeout,
    )
    packets, failure = _opened(lambda: _open(av, parts, chosen, server), server)
    if failure is not None:
        fail(failure)
    return Decoded(
        packets,
        options=chosen,
        clock=_clock_of(packets) if packets.live else None,
        failed=lambda error, delivered: reading_error(error, server, delivered, ended=_is_end(error, packets.format)),
    )


def _checked(address: str, name: str) -> Address:
    if not is_unicode(address) or not address.isprintable():
        raise FrameSourceError(
            f"{name} is no address: it is not UTF-8, or holds control characters", expected="an address of one line"
        )
    parts = split_address(address)
    if parts is None or not (parts.host or (parts.scheme in WITHOUT_HOST and parts.port is not None)):
        raise FrameSourceError(
            f"{name} names no host, or a port above 65535",
            expected="an address such as rtsp://USER:PASSWORD@192.168.1.20:554/stream1",
        )
    return parts


def _opened(call: Callable[[], PacketSource], server: Server) -> tuple[Any, FrameSourceError | None]:
    """Return what a call opens, or the error that says why it does not."""
    began = time.monotonic()
    known: tuple[type[BaseException], ...] = (RtspError, *errors_of_pyav())
    try:
        return call(), None
    except known as error:
        return None, opening_error(error, server, time.monotonic() - began)


def _open(av: Any, parts: Address, options: NetworkOptions, server: Server) -> PacketSource:
    def by_ffmpeg(seconds: float) -> PacketSource:
        _look_up(server)
        given = _ffmpeg_options(parts, options)
        container = open_container(av, str(parts), given, timeout=(seconds, options.read_timeout))
        return ContainerPackets(container, server.name, live=not _is_finite(container))

    if server.speaks_rtsp:
        return open_rtsp(parts, server.name, options, by_ffmpeg)
    return by_ffmpeg(options.open_timeout)


def _look_up(server: Server) -> None:
    """Look up the host of a server, because a lookup of FFmpeg's own cannot be given up.

    Raises:
        OSError: the host is not known, or no answer came in time.
    """
    if not server.host or is_number(server.host) or (server.scheme in ("http", "https") and getproxies()):
        return
    look_up(server.host, time.monotonic() + server.open_timeout)


def _ffmpeg_options(parts: Address, options: NetworkOptions) -> dict[str, str]:
    given = {
        "protocol_whitelist": ",".join(PROTOCOLS),
        "format_whitelist": ",".join(FORMATS),
        "analyzeduration": str(int(min(ANALYZED_SECONDS, options.open_timeout) * 1e6)),
        "probesize": str(ANALYZED_BYTES),
        "fpsprobesize": "0",
        "fflags": "-genpts",
    }
    if parts.scheme in ("rtsp", "rtsps"):
        given |= {
            "max_delay": str(int(REORDERED_SECONDS * 1e6)),
            "reorder_queue_size": str(REORDERED_PACKETS),
            **({"rtsp_transport": options.transport} if options.transport else {"rtsp_flags": "prefer_tcp"}),
        }
    return given


def _is_finite(container: Any) -> bool:
    """Return whether the server states the length of the video: in bytes, or in a playlist that has an end.

    Some cameras state an enormous length for a stream that never ends.
    """
    if container.format.name in ("hls", "dash"):
        return container.duration is not None
    return bool(container.format.name not in ("rtsp", "mpjpeg") and 0 < container.size <= VIDEO_BYTES)


def _is_end(error: BaseException, kind: str) -> bool:
    """Return whether an error is the end of a stream: FFmpeg calls the end of MJPEG over HTTP an input/output error."""
    return kind == "mpjpeg" and getattr(error, "errno", None) == errno.EIO


def _clock_of(packets: PacketSource) -> Clock:
    if not packets.is_timed:
        return ArrivalClock()
    behind = HELD_BACK.get((packets.format, packets.context.name), 0)
    return TimestampClock(behind=behind, settles_ns=SETTLES_NS if packets.format == "rtp" else 0)
