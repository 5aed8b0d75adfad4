"""A server that answers as a test says, and the error with which a network stream then refuses."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.options import NetworkOptions, SourceOptions
from vitedge.runtime.sources.video.network import open_network

QUICK = NetworkOptions(open_timeout=1.5, read_timeout=1.0)


class Answering:
    """A server on a port of its own that answers each request with what a function makes of it; None for silence."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._socket, *self._open):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while request := connection.recv(8192):
                self.requests.append(request)
                answer = self._answer(request)
                if answer is None:
                    continue
                connection.sendall(answer)
                if not request.startswith((b"OPTIONS", b"DESCRIBE")):
                    connection.shutdown(socket.SHUT_WR)
        except OSError:
            return


def rtsp(status: str, *headers: str) -> Callable[[bytes], bytes]:
    def answer(request: bytes) -> bytes:
        number = re.search(rb"CSeq: (\d+)", request)
        lines = [f"RTSP/1.0 {status}", f"CSeq: {number[1].decode() if number else 1}", *headers]
        if request.startswith(b"OPTIONS") and not status.startswith("401"):
            lines[0] = "RTSP/1.0 200 OK"
        return "\r\n".join((*lines, "", "")).encode()

    return answer


def http(status: str, body: bytes = b"", kind: str = "text/html") -> Callable[[bytes], bytes]:
    head = f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nWWW-Authenticate: "
    return lambda _: head.encode() + b'Basic realm="camera"\r\n\r\n' + body


def refused(address: str, options: SourceOptions = QUICK) -> FrameSourceError:
    with pytest.raises(FrameSourceError) as raised:
        open_network(address, options)
    return raised.value
