"""Cameras on real servers of RTSP and HTTP, which stop, hang and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.network import open_network

pytest.importorskip("av")

from answering import refused
from camera_servers import burnt_numbers
from camera_servers.encoding import encode, moving_pictures, transport_stream
from camera_servers.servers import Server, rtsp_server, skip_without_rtsp, web_server

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cameras")


@pytest.fixture(scope="module")
def rtsp_camera(folder: Path) -> Iterator[Server]:
    skip_without_rtsp()
    mounts = {f"/{kind}": [encode(folder / kind, moving_pictures(90), kind)] for kind in ("h264", "hevc", "mjpeg")}
    with rtsp_server(folder, {**mounts, "/sound": []}, user="joe", password="p@ss/w:d") as server:
        yield server


@pytest.fixture(scope="module")
def web_camera(folder: Path) -> Iterator[Server]:
    clip = transport_stream(encode(folder / "for_ts", moving_pictures(90)), folder / "ts")
    pictures = encode(folder / "for_web", moving_pictures(90), "mjpeg")
    with web_server(folder, clips={"/ts": str(clip.path), "/mjpeg": str(pictures.path)}) as server:
        yield server


class TestRealServers:
    """GStreamer's RTSP server, and a web server."""

    @pytest.mark.parametrize("transport", ["tcp", "udp", None])
    @pytest.mark.parametrize("kind", ["h264", "hevc", "mjpeg"])
    def test_rtsp(self, kind: str, transport: str | None, rtsp_camera: Server) -> None:
        address = f"rtsp://joe:p@ss/w:d@127.0.0.1:{rtsp_camera.port}/{kind}"
        options = NetworkOptions(transport=transport)
        self.delivers_in_order(address, options, ("timestamps", "sender"))

    @pytest.mark.parametrize("kind", ["ts", "mjpeg"])
    def test_http(self, kind: str, web_camera: Server) -> None:
        self.delivers_in_order(web_camera.url(f"/{kind}"), NetworkOptions(), ("timestamps", "arrival"))

    @staticmethod
    def delivers_in_order(address: str, options: NetworkOptions, bases: tuple[str, ...]) -> None:
        with open_source(address, options) as source:
            assert source.live
            assert source.length is None
            frames = []
            for frame in source:
                frames.append(frame)
                if len(frames) == 30:
                    break
        assert [frame.index for frame in frames] == list(range(30))
        numbers = [burnt_numbers.read(frame.image) for frame in frames if not frame.corrupt]
        steps = [(after - before) % 90 for before, after in pairwise(numbers)]
        assert steps.count(1) == len(steps)
        assert frames[0].backlog or frames[0].age_basis == "arrival"
        assert not frames[-1].backlog
        assert frames[-1].age_basis in bases
        times = [frame.captured_ns for frame in frames]
        assert max(times) <= time.monotonic_ns()
        known = [frame.pts for frame in frames if frame.pts is not None]
        begins_again = sum(after < before for before, after in pairwise(numbers))
        assert sum(after < before for before, after in pairwise(known)) <= begins_again

    @pytest.mark.parametrize("words", ["joe:hunter2@", ""])
    def test_a_wrong_password(self, words: str, rtsp_camera: Server) -> None:
        error = refused(f"rtsp://{words}127.0.0.1:{rtsp_camera.port}/h264", NetworkOptions())
        assert error.cause == "auth"
        assert "hunter2" not in str(error)

    def test_a_wrong_path(self, rtsp_camera: Server) -> None:
        error = refused(f"rtsp://joe:p%40ss%2Fw%3Ad@127.0.0.1:{rtsp_camera.port}/nothing", NetworkOptions())
        assert error.cause == "not_found"

    def test_sound_without_a_picture(self, rtsp_camera: Server) -> None:
        error = refused(f"rtsp://joe:p@ss/w:d@127.0.0.1:{rtsp_camera.port}/sound", NetworkOptions())
        assert error.cause == "no_video"
        assert "audio" in error.problem


def test_a_server_that_stops_hands_out_nothing_more(tmp_path: Path) -> None:
    """No picture that was held back comes when the time is over."""
    skip_without_rtsp()
    clip = encode(tmp_path / "clip", moving_pictures(60))
    with rtsp_server(tmp_path, {"/cam": [clip]}) as server:
        numbers: list[int] = []

        def read(source: Decoded) -> None:
            for frame in source:
                numbers.append(frame.index)
                if frame.index == 20:
                    server.stop()

        with open_network(server.url("/cam"), NetworkOptions(read_timeout=2.0)) as source:
            with pytest.raises(FrameSourceError, match=r"sent no frame for 2 s") as raised:
                read(source)
            assert raised.value.cause == "timeout"
        server.resume()
    assert len(numbers) <= 24, "some were on their way"
