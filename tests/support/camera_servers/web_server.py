"""Sends clips by HTTP and UDP on loopback: ``python web_server.py OPTIONS``.

OPTIONS is JSON, the fields of ``servers.WebOptions``. The port is printed. A clip of JPEGs is sent as MJPEG, as IP
cameras and ESP32 boards do; one of MPEG-TS as a stream without a length. A file is sent at once, with its length. The
program ends with its parent, and after ``seconds``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in the place of this folder

from camera_servers.encoded_clip import open_clip  # noqa: E402
from camera_servers.send_times import SendTimes  # noqa: E402

BOUNDARY = "picture"
DATAGRAM = 7 * 188
"""Bytes of a UDP datagram: as many TS packets as fit into an Ethernet frame."""


def paced(clip: Path, times: SendTimes) -> Iterator[bytes]:
    """Yield the pictures of a clip over and over, in step with ``time.monotonic``, from a key picture."""
    opened = open_clip(clip)
    pictures = opened.pictures()
    now = int(time.monotonic() * opened.fps)
    for step in count(next(step for step in count(now) if pictures[step % len(pictures)].key)):
        time.sleep(max(0.0, step / opened.fps - time.monotonic()))
        coded = pictures[step % len(pictures)]
        times.note(coded.number, step / opened.fps)
        yield coded.data


class Handler(BaseHTTPRequestHandler):
    """Answers requests; ``options`` and ``times`` are set on the class."""

    options: dict[str, Any]
    times: SendTimes

    def do_GET(self) -> None:
        if not self._may_enter():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with contextlib.suppress(OSError):  # the reader has left
            self._send()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _may_enter(self) -> bool:
        if not self.options["user"]:
            return True
        secret = f"{self.options['user']}:{self.options['password']}".encode()
        return self.headers.get("Authorization") == f"Basic {base64.b64encode(secret).decode()}"

    def _send(self) -> None:
        path = self.path.partition("?")[0]
        if path in self.options["files"]:
            self._send_file(Path(self.options["files"][path]))
        elif path in self.options["clips"]:
            self._send_clip(Path(self.options["clips"][path]))
        else:
            self.send_error(404)

    def _send_file(self, file: Path) -> None:
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if file.suffix == ".html" else "video/mp2t")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_clip(self, clip: Path) -> None:
        mjpeg = open_clip(clip).codec == "mjpeg"
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}" if mjpeg else "video/mp2t"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        for data in paced(clip, self.times):
            self.wfile.write(_part(data) if mjpeg else data)


def _part(jpeg: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def send_datagrams(port: int, clip: Path, times: SendTimes) -> None:
    """Send a clip of MPEG-TS to a port by UDP, whether anybody listens or not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data in paced(clip, times):
            for begin in range(0, len(data), DATAGRAM):
                with contextlib.suppress(ConnectionRefusedError):
                    sender.sendto(data[begin : begin + DATAGRAM], ("127.0.0.1", port))


def start(work: Callable[..., object], *arguments: object) -> None:
    """Do something in a thread that does not outlive the program."""
    threading.Thread(target=work, args=arguments, daemon=True).start()


def main() -> None:
    """Serve until the parent dies or closes standard input."""
    options = json.loads(sys.argv[1])
    Handler.options, Handler.times = options, SendTimes(Path(options["times"]))
    server = ThreadingHTTPServer(("127.0.0.1", options["port"]), Handler)
    if options["certificate"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["certificate"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    start(server.serve_forever)
    for port, clip in options["datagrams"].items():
        start(send_datagrams, int(port), Path(clip), Handler.times)
    print(server.server_address[1], flush=True)  # noqa: T201
    threading.Timer(options["seconds"], os._exit, (0,)).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
