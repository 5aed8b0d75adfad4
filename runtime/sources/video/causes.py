"""Errors of PyAV and FFmpeg as causes: why a camera, a stream or a file does not deliver.

FFmpeg gives one number for each error, and PyAV one class for each number. An unknown host, a broken connection and a
failed TLS handshake have the same number. For these the host is looked up, and its certificate is asked for, once more.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from dataclasses import dataclass
from typing import NoReturn

from vitedge.counts import counted
from vitedge.errors import Cause, FrameSourceError, VitedgeError
from vitedge.runtime.sources.rtsp.errors import RtspError, StatusError, TransportError
from vitedge.safety.redact import redact

FORBIDDEN = 403
PROBE_SECONDS = 2.0
"""Longest time to ask a server for its certificate again."""

_OF_CLASS: dict[str, Cause] = {
    "HTTPUnauthorizedError": "auth",
    "HTTPForbiddenError": "auth",
    "HTTPNotFoundError": "not_found",
    "HTTPError": "network",
    "HTTPClientError": "network",
    "ExitError": "timeout",
    "EOFError": "eof",
    "InvalidDataError": "no_video",
    "DemuxerNotFoundError": "no_video",
    "StreamNotFoundError": "no_video",
    "DecoderNotFoundError": "codec",
    "PatchWelcomeError": "codec",
    "ProtocolNotFoundError": "codec",
}
"""Causes by the names of PyAV's classes, whose numbers are FFmpeg's own."""

_OF_NUMBER: dict[int, Cause] = {
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EBUSY: "device_busy",
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.ENODEV: "unplugged",
    errno.ENXIO: "unplugged",
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EAGAIN: "timeout",
    errno.ENOSYS: "codec",
    errno.EIO: "network",
    errno.EPROTONOSUPPORT: "network",
    errno.EPIPE: "network",
    errno.ESHUTDOWN: "network",
    errno.ECONNRESET: "network",
    errno.ECONNABORTED: "network",
    errno.EHOSTUNREACH: "network",
    errno.EHOSTDOWN: "network",
    errno.ENETUNREACH: "network",
    errno.ENETDOWN: "network",
    errno.EADDRNOTAVAIL: "network",
}


def errors_of_pyav() -> tuple[type[BaseException], ...]:
    """Return the exceptions by which PyAV reports errors of FFmpeg and of its own."""
    import av

    return (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, LookupError)


def cause_of(error: BaseException) -> Cause | None:
    """Return the cause of an error of PyAV or of the system; None for any other error."""
    if isinstance(error, RtspError):
        return error.cause
    named = next((_OF_CLASS[each.__name__] for each in type(error).__mro__ if each.__name__ in _OF_CLASS), None)
    number = getattr(error, "errno", None)
    return named if named is not None or not isinstance(number, int) else _OF_NUMBER.get(number)


def reason_of(error: BaseException) -> str:
    """Return what FFmpeg or the system says about an error, without addresses, and without its log."""
    reason = error.problem if isinstance(error, RtspError) else getattr(error, "strerror", None)
    return redact(reason if isinstance(reason, str) and reason else type(error).__name__)


@dataclass(frozen=True)
class Server:
    """The server of a network stream, as errors describe it.

    Attributes:
        name: its address, without secrets.
        scheme: protocol, such as ``rtsp``.
        host: its name or number; empty if there is none.
        port: its port; None for the protocol's own.
        has_user: whether its address has a user or a password.
        open_timeout: seconds that it was given to answer.
        read_timeout: seconds that it was given for each frame.
    """

    name: str
    scheme: str
    host: str
    port: int | None
    has_user: bool
    open_timeout: float
    read_timeout: float

    @property
    def is_encrypted(self) -> bool:
        """Return whether the connection uses TLS."""
        return self.scheme in ("https", "rtsps", "rtmps", "rtmpts", "tls")

    @property
    def speaks_rtsp(self) -> bool:
        """Return whether RTSP negotiates the stream."""
        return self.scheme in ("rtsp", "rtsps")

    @property
    def endpoint(self) -> str:
        """Return ``HOST PORT`` for a command; placeholders where the address does not show them."""
        host = self.host if self.host and self.host in self.name else "HOST"
        return f"{host} {self.port or 'PORT'}"


@dataclass(frozen=True)
class _Text:
    problem: str
    expected: str
    fix: str


def opening_error(error: BaseException, server: Server, waited: float) -> FrameSourceError:
    """Describe why a network stream did not open within ``waited`` seconds.

    FFmpeg finds invalid data in the answer of an RTSP server that never came, or that broke off.
    """
    cause = cause_of(error)
    if isinstance(error, socket.gaierror):
        return _unknown_host(server)
    if cause == "tls":
        return _unencrypted(server)
    if waited >= server.open_timeout and cause in (None, "no_video", "network"):
        cause = "timeout"
    if (cause == "no_video" and server.speaks_rtsp) or _is_no_rtsp(error):
        what = (
            f": {reason_of(error)}" if _is_no_rtsp(error) else " closes the connection in mid-answer, or sends no video"
        )
        return FrameSourceError(
            f"{server.name}{what}",
            expected="an RTSP server that is ready",
            fix="wait until the camera has started; ffprobe ADDRESS shows what it answers",
            cause="network",
        )
    if cause == "network" and getattr(error, "errno", None) == errno.EIO:
        return _unclear(server, error)
    return _described(server, error, cause)


def reading_error(error: BaseException, server: Server, delivered: int, *, ended: bool = False) -> FrameSourceError:
    """Describe why a network stream ended.

    Args:
        error: what PyAV raised.
        server: where the stream comes from.
        delivered: number of frames before it.
        ended: whether the error is known to be the end of the stream.
    """
    cause = "eof" if ended else cause_of(error)
    if cause in ("timeout", "eof"):
        return stopped(server.name, cause, delivered, seconds=server.read_timeout)
    return FrameSourceError(
        f"{server.name} broke off after {counted(delivered, 'frame')}: {reason_of(error)}",
        expected="a stream that goes on",
        fix=f"check the network and the server, for example with: nc -zv {server.endpoint}",
        cause=cause if cause not in (None, "no_video") else "network",
    )


def stopped(name: str, cause: Cause, delivered: int, *, seconds: float) -> FrameSourceError:
    """Describe a live source that ended by itself, or that sent no frame in time.

    Args:
        name: name of the source.
        cause: ``timeout``, ``eof`` or another.
        delivered: number of frames before it.
        seconds: seconds that it was given for a frame.
    """
    how = f"it sent no frame for {seconds:g} s" if cause == "timeout" else "the other side ended it"
    return FrameSourceError(
        f"{name} stopped delivering after {counted(delivered, 'frame')}: {how}",
        expected="a camera or stream that goes on",
        fix="check the cable, the power and the network, then open it again; reconnect=True does that",
        cause=cause,
    )


def undecodable(name: str, delivered: int, *, seconds: float) -> FrameSourceError:
    """Describe a live source of whose video no picture can be decoded any more.

    Args:
        name: name of the source.
        delivered: number of frames before it.
        seconds: how long there was no picture.
    """
    return FrameSourceError(
        f"{name} sends a video of which nothing could be decoded for {seconds:g} s, after "
        f"{counted(delivered, 'frame')}",
        expected="key frames, and few lost packets",
        fix="shorten the distance of key frames in the camera's settings; with UDP try transport=tcp",
        cause="timeout",
    )


def _unclear(server: Server, error: BaseException) -> FrameSourceError:
    """Find out what is behind FFmpeg's "Input/output error"."""
    if server.host and not _is_known(server.host, server.port):
        return _unknown_host(server)
    if server.is_encrypted and server.host and not _shakes_hands(server.host, server.port):
        return _unencrypted(server)
    return _described(server, error, "network")


def _unknown_host(server: Server) -> FrameSourceError:
    host = server.host if server.host in server.name else "HOST"
    return FrameSourceError(
        f"{server.name}: no such host is known",
        expected="a name that this machine can look up, or a number such as 192.168.1.20",
        fix=f"check the name, and the network: getent hosts {host}",
        cause="network",
    )


def _unencrypted(server: Server) -> FrameSourceError:
    return FrameSourceError(
        f"{server.name}: no encrypted connection comes about",
        expected="a server that speaks TLS on this port",
        fix=f"see what it answers: openssl s_client -connect {server.endpoint.replace(' ', ':')}; "
        "without encryption the scheme is rtsp:// or http://",
        cause="tls",
    )


def _is_no_rtsp(error: BaseException) -> bool:
    """Decide whether a server breaks off before it plays, does not answer in RTSP, or exceeds a bound."""
    is_answer = isinstance(error, StatusError | TransportError)
    return isinstance(error, RtspError) and error.cause == "network" and not is_answer


def _is_known(host: str, port: int | None) -> bool:
    try:
        socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return True


def _shakes_hands(host: str, port: int | None) -> bool:
    """Return whether a TLS handshake succeeds, whatever the certificate; True where nobody can tell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ValueError):
        context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with (
            socket.create_connection((host, port or 443), timeout=PROBE_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except ssl.SSLError:
        return False
    except (OSError, ValueError):
        return True


def _described(server: Server, error: BaseException, cause: Cause | None) -> FrameSourceError:
    text = _text(server, error, cause)
    return FrameSourceError(f"{server.name} {text.problem}", expected=text.expected, fix=text.fix, cause=cause)


def _text(server: Server, error: BaseException, cause: Cause | None) -> _Text:
    if cause == "auth":
        return _of_authorization(server, error)
    if isinstance(error, TransportError) or getattr(error, "errno", None) == errno.EPROTONOSUPPORT:
        why = reason_of(error) if isinstance(error, TransportError) else "it offers no transport that is spoken here"
        return _Text(
            f"cannot be played: {why}",
            "a server that sends RTP by TCP, by UDP or by multicast",
            "leave transport out of the address: then TCP is tried, and UDP; see what is offered: ffprobe ADDRESS",
        )
    if type(error).__name__ == "ProtocolNotFoundError":
        return _Text(
            f"cannot be opened: {server.scheme.upper()} is not in this build of FFmpeg",
            "a protocol that PyAV's FFmpeg has",
            "python -m av --formats lists what it has; a GStreamer pipeline (gst:) may have the protocol",
        )
    is_status = isinstance(error, StatusError) and cause == "network"
    if is_status or type(error).__name__ in ("HTTPServerError", "HTTPOtherClientError"):
        return _Text(
            f"answers with an error: {reason_of(error)}",
            "a server that sends a stream",
            "wait until it has started; see what it answers: ffprobe ADDRESS",
        )
    texts: dict[Cause | None, _Text] = {
        "not_found": _Text(
            "has no such stream: the server answers, and does not know this path",
            "the path that the camera's manual or its ONVIF page names",
            "check the path, for example with: ffprobe ADDRESS",
        ),
        "refused": _Text(
            "refuses the connection: nobody listens on this port",
            "the port of a running server" + ("; RTSP has 554" if server.speaks_rtsp else ""),
            f"check the port, and whether the server runs: nc -zv {server.endpoint}",
        ),
        "timeout": _Text(
            f"does not answer with a video; it was given {server.open_timeout:g} s",
            "the address of a video stream that this machine reaches",
            f"check the address of the sender, and the firewall: tcpdump -n udp port {server.port or 'PORT'}"
            if server.scheme == "udp"
            else f"check the address, the power and the firewall: nc -zv {server.endpoint}",
        ),
        "no_video": _Text(
            "answers, and sends nothing that FFmpeg can read as a video",
            "a stream of H.264, H.265, MJPEG or another video",
            "see what it sends: ffprobe ADDRESS",
        ),
        "codec": _Text(
            "sends a video that this build of FFmpeg cannot decode",
            "H.264, H.265 or MJPEG, which every build decodes",
            "ffprobe ADDRESS names the codec; choose another in the camera's settings",
        ),
        "eof": _Text(
            "closes the connection before it sends a video",
            "a server that sends a stream",
            "see what it answers: ffprobe ADDRESS",
        ),
        "permission": _Text(
            f"cannot be opened: {reason_of(error)}",
            "an address that this user may open",
            "check the address; ports below 1024 need rights to listen on",
        ),
    }
    if cause in texts:
        return texts[cause]
    return _Text(
        f"cannot be reached: {reason_of(error)}",
        "the address of a video stream that this machine reaches",
        f"check the address and the network: nc -zv {server.endpoint}",
    )


def _of_authorization(server: Server, error: BaseException) -> _Text:
    if type(error).__name__ == "HTTPForbiddenError" or getattr(error, "status", None) == FORBIDDEN:
        return _Text(
            "forbids access (403)" + (" to this user" if server.has_user else ""),
            "a user whom the camera's settings allow to watch this stream",
            "check the rights of the user in the camera's settings",
        )
    if server.has_user:
        return _Text(
            "does not accept the user or the password (401)",
            "the user and password of the camera's own settings",
            "check both; some cameras lock a user for minutes after wrong passwords",
        )
    return _Text(
        "asks for a user and a password (401)",
        "both in the address: rtsp://USER:PASSWORD@HOST/PATH",
        "write an @ of the password as %40, a / as %2F and a : as %3A",
    )


def fail(error: VitedgeError) -> NoReturn:
    """Raise an error without the one that led to it, whose text holds the address with its password."""
    error.__context__ = None
    raise error from None
