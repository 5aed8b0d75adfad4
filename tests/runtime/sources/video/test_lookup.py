"""A name server that does not answer holds nobody longer than ``open_timeout``."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.sources.video.network import open_network

pytest.importorskip("av")

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hosts that were looked up, without an answer."""
    hosts: list[str] = []
    released = threading.Event()

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        hosts.append(host)
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield hosts
    released.set()


def test_a_lookup_without_an_answer_is_given_up(asked: list[str]) -> None:
    began = time.monotonic()
    with pytest.raises(FrameSourceError) as caught:
        open_network("rtsp://user:secret@camera.invalid/1", NetworkOptions(open_timeout=0.3))
    assert time.monotonic() - began < 5
    assert (caught.value.cause, asked) == ("timeout", ["camera.invalid"])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_numbers_are_not_looked_up(host: str, asked: list[str]) -> None:
    with pytest.raises(FrameSourceError):
        open_network(f"rtsp://{host}:9/1", NetworkOptions(open_timeout=1.0))
    assert asked == []
