"""Network streams that are finite, what they may open, and how they end."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.sources.video import network
from vitedge.runtime.sources.video.network import open_network

pytest.importorskip("av")

import clips
from answering import QUICK, Answering, http, refused
from camera_servers.encoding import encode, moving_pictures
from camera_servers.servers import rtsp_server, skip_without_rtsp

pytestmark = pytest.mark.timeout(120)


class TestFinite:
    @pytest.mark.parametrize("suffix", ["avi", "ts", "mp4"])
    def test_a_video_behind_an_address_is_a_file(
        self, suffix: str, tmp_path: Path, answering: Callable[..., Answering]
    ) -> None:
        codec = {"avi": "MJPG", "ts": "MPG2", "mp4": "avc1"}[suffix]
        path = clips.write_clip(tmp_path / f"clip.{suffix}", 60, codec=codec)
        server = answering(http("200 OK", path.read_bytes(), "application/octet-stream"))
        with open_network(f"http://joe:hunter2@127.0.0.1:{server.port}/clip.{suffix}", QUICK) as source:
            assert not source.live
            assert source.name.startswith("http://***@127.0.0.1")
            frames = list(source)
        assert [clips.number_of(frame.image) for frame in frames] == list(range(60))
        assert source.notices == ()

    def test_a_playlist_that_ends_is_a_file(self, segment: Path, answering: Callable[..., Answering]) -> None:
        holder = answering(http("200 OK", segment.read_bytes(), "video/mp2t"))
        listed = clips.playlist(f"http://127.0.0.1:{holder.port}/a.ts")
        server = answering(http("200 OK", listed, "application/vnd.apple.mpegurl"))
        with open_network(f"http://127.0.0.1:{server.port}/live.m3u8", QUICK) as source:
            assert not source.live
            assert clips.number_of(next(iter(source)).image) == 0


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("kind", ["playlist", "concat", "redirect"])
def test_a_stream_opens_no_file(
    kind: str,
    scheme: str,
    segment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(segment, tmp_path / "segment.ts")
    contents = {
        "playlist": clips.playlist(f"file://{segment}"),
        "concat": b"ffconcat version 1.0\nfile segment.ts\n",
        "redirect": b"",
    }
    head = {
        "playlist": "200 OK\r\nContent-Type: application/vnd.apple.mpegurl",
        "concat": "200 OK\r\nContent-Type: text/plain",
        "redirect": f"302 Found\r\nLocation: file://{segment}",
    }[kind]
    server = socket.create_server(("127.0.0.1", 0))
    asked = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            asked.set()
            with connection:
                if scheme == "http":
                    connection.recv(4096)
                    connection.sendall(f"HTTP/1.0 {head}\r\nContent-Length: {len(contents[kind])}\r\n\r\n".encode())
                connection.sendall(contents[kind])

    threading.Thread(target=serve, daemon=True).start()
    try:
        refused(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/live.m3u8")
    finally:
        server.close()
    assert asked.is_set()


def test_no_protocol_of_files_is_among_those_of_streams() -> None:
    assert not set(network.PROTOCOLS) & {
        "file",
        "concat",
        "concatf",
        "subfile",
        "data",
        "pipe",
        "fd",
        "unix",
        "cache",
        "md5",
    }
    assert not set(network.FORMATS) & {"concat", "image2", "sdp", "lavfi"}


def test_close_during_a_read_is_immediate(tmp_path: Path) -> None:
    skip_without_rtsp()
    clip = encode(tmp_path / "clip", moving_pictures(60))
    with rtsp_server(tmp_path, {"/cam": [clip]}) as server:
        source = open_network(server.url("/cam"), NetworkOptions(read_timeout=1000.0))
        ended, came = threading.Event(), threading.Event()

        def read() -> None:
            for frame in source:
                if frame.index == 10:
                    came.set()
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        assert came.wait(30)
        server.stop()
        source.close()
        assert not ended.is_set() or source._freed
        assert ended.wait(30)
        assert source._freed
        server.resume()
