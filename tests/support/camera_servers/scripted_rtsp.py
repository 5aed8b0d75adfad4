"""``ScriptedRtsp``: an RTSP server in a thread of the test, which answers and sends what the test says."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from camera_servers.rtp_packets import PAYLOAD_TYPE, Packetizer, nal_units

TICKS = 3000
"""Of a frame, at 30 frames per second."""


@dataclass(frozen=True)
class Request:
    """A request that came.

    Attributes:
        method: its first word.
        uri: its address.
        headers: by names in small letters.
    """

    method: str
    uri: str
    headers: dict[str, str]


@dataclass
class Script:
    """What a server does.

    Attributes:
        description: its SDP.
        packets: makes the packets of a session: bytes of RTP, or a channel with bytes, or None for a pause of 1/30 s.
        transports: what it offers.
        session: the header ``Session``.
        methods: the header ``Public``.
        answer: changes an answer, which is given with its request; None for silence.
        challenge: returns a header ``WWW-Authenticate`` for a request that is refused; empty for one that is let in.
        early: packets that come before the answer to ``PLAY``.
        ends: whether the server ends the connection behind its last packet.
    """

    description: str = ""
    packets: Callable[[], Iterable[bytes | tuple[int, bytes] | None]] = lambda: ()
    transports: Sequence[str] = ("tcp", "udp")
    session: str = "5Ab-9;timeout=60"
    methods: str = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
    answer: Callable[[Request, bytes], bytes | None] = lambda _, answer: answer
    challenge: Callable[[Request], str] = lambda _: ""
    early: Sequence[bytes] = ()
    ends: bool = False


@dataclass
class _Client:
    """A connection, and where its packets go."""

    connection: socket.socket
    buffer: bytes = b""
    udp: tuple[socket.socket, socket.socket] | None = None
    ports: tuple[int, int] = (0, 0)
    channels: tuple[int, int] = (0, 1)
    lock: threading.Lock = field(default_factory=threading.Lock)


class ScriptedRtsp:
    """Serves by a script; leaving the context closes everything.

    Attributes:
        port: its port.
        requests: what was asked.
        reports: packets of RTCP that came.
        connections: number of connections so far.

    Args:
        script: what it does.
        certificate: file with a key and a certificate, for ``rtsps``.
        host: the number at which it listens.
    """

    def __init__(self, script: Script, certificate: str = "", *, host: str = "127.0.0.1") -> None:
        self._script, self._host = script, host
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.requests: list[Request] = []
        self.reports: list[bytes] = []
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((host, 0), family=self._family)
        self.port = self._listener.getsockname()[1]
        self._context: ssl.SSLContext | None = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, login: str = "", path: str = "/cam") -> str:
        """Return its address."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'rtsps' if self._context else 'rtsp'}://{login}{host}:{self.port}{path}"

    @property
    def methods(self) -> list[str]:
        """The methods of the requests."""
        return [each.method for each in self.requests]

    def __enter__(self) -> ScriptedRtsp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        _close(self._listener)
        self._threads[0].join(10)  # no connection is accepted any more
        for each in self._sockets:
            _close(each)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
                self._sockets.append(connection)
                self._start(self._serve, _Client(connection))

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: _Client) -> None:
        with contextlib.suppress(OSError, ValueError):
            for request in self._requests_of(client):
                self.requests.append(request)
                answer = self._script.answer(request, self._answer(request, client))
                if answer is None:
                    continue
                if request.method == "PLAY":
                    answer = b"".join(_interleaved(0, each) for each in self._script.early) + answer
                with client.lock:
                    client.connection.sendall(answer)
                if request.method == "PLAY":
                    self._start(self._send, client)

    def _requests_of(self, client: _Client) -> Iterator[Request]:
        while data := client.connection.recv(65_536):
            client.buffer += data
            while client.buffer:
                if client.buffer[:1] == b"$":
                    end = 4 + int.from_bytes(client.buffer[2:4], "big")
                    if len(client.buffer) < end:
                        break
                    self.reports.append(client.buffer[4:end])
                elif (end := client.buffer.find(b"\r\n\r\n") + 4) > 3:
                    lines = client.buffer[: end - 4].decode().split("\r\n")
                    method, uri, _ = lines[0].split(" ")
                    pairs = (line.partition(":") for line in lines[1:])
                    if not method.startswith("RTSP/"):  # an answer to a request of the server
                        yield Request(method, uri, {name.lower(): value.strip() for name, _, value in pairs})
                else:
                    break
                client.buffer = client.buffer[end:]

    def _answer(self, request: Request, client: _Client) -> bytes:
        number, script = f"CSeq: {request.headers['cseq']}", self._script
        challenge = script.challenge(request)
        if challenge:
            return text_of("401 Unauthorized", number, f"WWW-Authenticate: {challenge}")
        if request.method == "OPTIONS":
            return text_of("200 OK", number, f"Public: {script.methods}")
        if request.method == "DESCRIBE":
            body = script.description.encode()
            kind, length = "Content-Type: application/sdp", f"Content-Length: {len(body)}"
            return text_of("200 OK", number, kind, f"Content-Base: {request.uri}/", length) + body
        if request.method == "SETUP":
            agreed = self._set_up(request.headers["transport"], client)
            if agreed is None:
                return text_of("461 Unsupported Transport", number)
            return text_of("200 OK", number, f"Transport: {agreed}", f"Session: {script.session}")
        return text_of("200 OK", number, f"Session: {script.session}")

    def _set_up(self, wanted: str, client: _Client) -> str | None:
        ports = re.search(r"client_port=(\d+)-(\d+)", wanted)
        if ("udp" if ports else "tcp") not in self._script.transports:
            return None
        if ports is None:
            return wanted
        pair = [socket.socket(self._family, socket.SOCK_DGRAM) for _ in range(2)]
        for each in pair:
            each.bind((self._host, 0))
            self._sockets.append(each)
        client.udp, client.ports = (pair[0], pair[1]), (int(ports[1]), int(ports[2]))
        self._start(self._hear, pair[1])
        return f"{wanted};server_port={pair[0].getsockname()[1]}-{pair[1].getsockname()[1]}"

    def _hear(self, rtcp: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                self.reports.append(rtcp.recv(65_536))

    def _send(self, client: _Client) -> None:
        with contextlib.suppress(OSError):
            for each in self._script.packets():
                if self._over.is_set():
                    return
                if each is None:
                    time.sleep(1 / 30)
                    continue
                channel, data = each if isinstance(each, tuple) else (0, each)
                if client.udp is not None:
                    client.udp[channel].sendto(data, (self._host, client.ports[channel]))
                else:
                    with client.lock:
                        client.connection.sendall(_interleaved(channel, data))
            if self._script.ends:
                client.connection.shutdown(socket.SHUT_RDWR)


def text_of(status: str, *headers: str) -> bytes:
    """Return an answer without a body."""
    return "\r\n".join((f"RTSP/1.0 {status}", *headers, "", "")).encode()


def _interleaved(channel: int, data: bytes) -> bytes:
    return bytes((0x24, channel)) + len(data).to_bytes(2, "big") + data


def description(codec: str, parameters: str = "packetization-mode=1", *, control: str = "trackID=1") -> str:
    """Return the SDP of a video, behind a track of sound."""
    return "\r\n".join(
        (
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=camera",
            "c=IN IP4 0.0.0.0",
            "t=0 0",
            "a=control:*",
            "m=audio 0 RTP/AVP 8",
            "a=control:trackID=0",
            f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
            f"a=rtpmap:{PAYLOAD_TYPE} {codec}/90000",
            f"a=fmtp:{PAYLOAD_TYPE} {parameters}",
            f"a=control:{control}",
            "",
        )
    )


def parameter_sets(unit: bytes) -> str:
    """Return the parameter of a description that holds the parameter sets of an H.264 key picture."""
    sets = [each for each in nal_units(unit) if each[0] & 0x1F in (7, 8)]
    return "sprop-parameter-sets=" + ",".join(b64encode(each).decode() for each in sets)


def endless(units: Sequence[bytes], packetizer: Packetizer) -> Iterator[bytes | None]:
    """Yield the packets of access units over and over, at 30 pictures per second."""
    timestamp = (1 << 32) - 30 * TICKS
    while True:
        for unit in units:
            yield from packetizer.packets(unit, timestamp)
            yield None
            timestamp += TICKS


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
