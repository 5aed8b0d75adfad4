"""A hub on this machine's loopback: as much of the Hugging Face hub's interface as a download needs."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it serves, and what it was asked.

    Attributes:
        repos: folders by ``OWNER/NAME``; each has one commit, ``COMMIT``, on ``main``.
        refused: HTTP status and the hub's error code for repositories that are not to be read.
        cut_after: file names whose transfer breaks once, after so many bytes.
        endless: file names whose transfer goes on behind their end.
        listed: names that the listing of files has besides those that exist.
        requests: ``METHOD path`` of each request, with its ``Range``, in order.
        tokens: the ``Authorization`` that came with them.
        url: where it listens.
    """

    repos: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    listed: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Do what ``HF_ENDPOINT`` does to a new process."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def unused_url() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that leave: a test reads what is printed."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(" ".join(filter(None, (self.command, path, self.headers.get("Range")))))
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        refusal = self.hub.refused.get(found[1]) if found else None
        if refusal is not None:
            self._fail(*refusal)
        elif found is None or found[1] not in self.hub.repos:
            self._fail(404, "RepoNotFound")
        elif found[2] not in (None, "main", COMMIT):
            self._fail(404, "RevisionNotFound")
        elif api:
            self._tell(self.hub.repos[api[1]], api[1])
        else:
            self._send_file(self.hub.repos[found[1]] / found[3])

    def _tell(self, folder: Path, repo: str) -> None:
        names = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]
        files = [{"rfilename": name} for name in (*names, *self.hub.listed)]
        self._send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode(), {})

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            self._fail(404, "EntryNotFound")
            return
        body = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        if self.command == "GET" and file.name in self.hub.endless:
            self._send_for_ever(body)
            return
        cut = self.hub.cut_after.pop(file.name, None) if self.command == "GET" else None
        self._send(206 if begin else 200, body[begin:], headers, cut=cut)

    def _send_for_ever(self, body: bytes) -> None:
        """Without a length, in chunks, until the client has enough."""
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], *, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
