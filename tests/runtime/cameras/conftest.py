"""Clips and cameras for tests of streams against real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

from camera_servers.encoded_clip import EncodedClip
from camera_servers.encoding import encode, moving_pictures, transport_stream
from camera_servers.proxy import Proxy
from camera_servers.servers import RtspServer, WebServer, rtsp_server, skip_without_rtsp, web_server

FRAMES = 300
"""Frames of a clip, which lasts 10 s and begins again."""


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], EncodedClip]:
    """``clip(kind)`` encodes ``FRAMES`` numbered pictures, once.

    ``kind`` is one of ``encoding.ENCODERS``; ``half`` for H.264 of half the size with numbers that go on; or ``ts`` for
    H.264 in MPEG-TS.
    """
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, EncodedClip] = {}

    def make(kind: str) -> EncodedClip:
        if kind == "half":
            return encode(folder / kind, moving_pictures(FRAMES, 160, 96), gop=10, first=FRAMES)
        if kind == "ts":
            return transport_stream(cached("h264"), folder / kind)
        return encode(folder / kind, moving_pictures(FRAMES), kind, gop=10)

    def cached(kind: str) -> EncodedClip:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return cached


@pytest.fixture(scope="session")
def filmed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodedClip:
    """H.264 of three seconds of a filmed street, with numbers burnt in."""
    import av

    with av.open(str(shared_data / "video" / "car-detection.mp4")) as video:
        pictures = [frame.to_ndarray(format="bgr24") for frame in islice(video.decode(video=0), 90)]
    return encode(tmp_path_factory.mktemp("filmed") / "street", pictures, gop=10)


@pytest.fixture
def serve(clip: Callable[[str], EncodedClip], tmp_path: Path) -> Iterator[Callable[..., RtspServer]]:
    """``serve("h264", "half", …)`` starts an RTSP server that sends these clips one after the other at ``/cam``.

    ``/sound`` has no picture.
    """
    skip_without_rtsp()
    with ExitStack() as running:

        def start(*kinds: str, **options: Any) -> RtspServer:
            mounts = {"/cam": [clip(kind) for kind in kinds], "/sound": []}
            server = rtsp_server(tmp_path, mounts, **options)
            running.enter_context(server)
            return server

        yield start


@pytest.fixture
def camera(serve: Callable[..., RtspServer]) -> RtspServer:
    """An RTSP server that sends H.264 at ``/cam``."""
    return serve("h264")


@pytest.fixture
def proxy(camera: RtspServer) -> Iterator[Proxy]:
    """A proxy before ``camera``."""
    with Proxy(camera.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(camera: RtspServer, proxy: Proxy) -> str:
    """The address of ``camera`` through ``proxy``."""
    return camera.url("/cam", port=proxy.port)


@pytest.fixture
def web(clip: Callable[[str], EncodedClip], tmp_path: Path) -> Iterator[Callable[..., WebServer]]:
    """``web(**options)`` starts a web server: MJPEG at ``/mjpeg``, MPEG-TS at ``/live.ts``, a file at ``/file.ts``.

    ``/page.html`` is no video.
    """
    page = tmp_path / "page.html"
    page.write_text("<html><body>This is the page of a camera.</body></html>" * 100, encoding="ascii")
    with ExitStack() as running:

        def start(**options: Any) -> WebServer:
            clips = {"/mjpeg": str(clip("mjpeg").path), "/live.ts": str(clip("ts").path)}
            files = {"/file.ts": str(clip("ts").path), "/page.html": str(page)}
            server = web_server(tmp_path, clips=clips, files=files, **options)
            running.enter_context(server)
            return server

        yield start
