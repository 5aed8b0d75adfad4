"""Pictures over HTTP, one after the other: live, and its end is an error."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.sources.video.network import open_network

av = pytest.importorskip("av")

import clips  # noqa: E402 - needs PyAV
from answering import QUICK  # noqa: E402

pytestmark = pytest.mark.timeout(120)


def jpeg(number: int) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 128, 96, "yuvj420p", Fraction(1, 25)
    picture = clips.numbered_frame(number)
    return b"".join(bytes(each) for each in encoder.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))


def multipart(count: int) -> bytes:
    parts = [jpeg(number) for number in range(count)]
    heads = [f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n".encode() for part in parts]
    return b"".join(head + part + b"\r\n" for head, part in zip(heads, parts, strict=True))


MULTIPART = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


class TestMjpeg:
    @pytest.fixture
    def camera(self) -> Iterator[tuple[str, threading.Event]]:
        """An address at which eight pictures come at once, and then nothing, until the event is set: then the end."""
        server, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(MULTIPART + multipart(8))
                ended.wait(60)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://admin:secret@127.0.0.1:{server.getsockname()[1]}/cam", ended
        ended.set()
        server.close()

    def test_a_stream_is_live_and_its_end_an_error(self, camera: tuple[str, threading.Event]) -> None:
        address, ended = camera
        ended.set()
        with open_network(address, QUICK) as source:
            assert (source.live, source.length, source.fps) == (True, None, None)
            frames = iter(source)
            found = [next(frames) for _ in range(8)]
            with pytest.raises(FrameSourceError, match="stopped delivering after 8 frames: the other side") as raised:
                next(frames)
        assert [clips.number_of(frame.image) for frame in found] == list(range(8))
        assert {(frame.pts, frame.age_basis) for frame in found} == {(None, "arrival")}
        assert (raised.value.cause, raised.value.__context__) == ("eof", None)

    def test_a_stream_that_stalls_hands_out_nothing_more(self, camera: tuple[str, threading.Event]) -> None:
        found: list[Frame] = []
        with (
            open_network(camera[0], QUICK) as source,
            pytest.raises(FrameSourceError, match=r"sent no frame for 1 s") as raised,
        ):
            found.extend(source)
        assert [clips.number_of(frame.image) for frame in found] == list(range(8))
        assert raised.value.cause == "timeout"
        assert "secret" not in str(raised.value)

    def test_frames_that_waited_are_backlog(self, camera: tuple[str, threading.Event]) -> None:
        with open_network(camera[0], QUICK) as source:
            time.sleep(0.3)
            frames = iter(source)
            assert [next(frames).backlog for _ in range(8)] == [True] * 8

    def test_close_returns_at_once_and_the_reader_ends(self, camera: tuple[str, threading.Event]) -> None:
        source = open_network(camera[0], NetworkOptions(read_timeout=2.0))
        came = threading.Event()
        found: list[Frame] = []

        def read() -> None:
            for frame in source:
                found.append(frame)
                if len(found) == 8:
                    came.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert came.wait(30)
        time.sleep(0.2)  # it waits for the ninth now
        source.close()
        assert reader.is_alive(), "the reader frees the camera, when its read ends"
        reader.join(30)
        assert not reader.is_alive()
        assert (len(found), source._freed) == (8, True)
        source.close()

    def test_frames_keep_planes_unless_they_are_not_wanted(self, camera: tuple[str, threading.Event]) -> None:
        with open_network(camera[0], QUICK) as source:
            assert not isinstance(next(iter(source)).pixels, np.ndarray)

    def test_frames_in_bgr(self, camera: tuple[str, threading.Event]) -> None:
        with open_network(camera[0], NetworkOptions(read_timeout=1.0, planes=False)) as source:
            assert isinstance(next(iter(source)).pixels, np.ndarray)


@pytest.mark.parametrize("length", [1 << 31, 1 << 62])
def test_a_camera_that_states_a_length_is_live(length: int) -> None:
    """Some do, because their web server must state one."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            head = MULTIPART.replace(b"\r\n\r\n", f"\r\nContent-Length: {length}\r\n\r\n".encode())
            connection.sendall(head + multipart(4))

    threading.Thread(target=serve, daemon=True).start()
    try:
        with open_network(f"http://127.0.0.1:{server.getsockname()[1]}/cam", QUICK) as source:
            assert source.live
    finally:
        server.close()
