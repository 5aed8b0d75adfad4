"""Network streams: their errors, each with its cause, and their secrets; live or finite; what they may open."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from vitedge.errors import Cause, FrameSourceError, UsageError
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import CameraOptions, NetworkOptions, SourceOptions
from vitedge.runtime.sources.video import network
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.network import open_network

av = pytest.importorskip("av")

import clips  # noqa: E402 - needs PyAV
from camera_servers import burnt_numbers  # noqa: E402
from camera_servers.encoding import encode, moving_pictures, transport_stream  # noqa: E402
from camera_servers.servers import Server, rtsp_server, skip_without_rtsp, web_server  # noqa: E402

pytestmark = pytest.mark.timeout(120)

QUICK = NetworkOptions(open_timeout=1.5, read_timeout=1.0)
SECRETS = ("hunter2", "p@ss/w:d", "100%", "a?b#c", "%70%77")


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


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[bytes], bytes | None]], Answering]]:
    servers: list[Answering] = []

    def make(answer: Callable[[bytes], bytes | None]) -> Answering:
        servers.append(Answering(answer))
        return servers[-1]

    yield make
    for each in servers:
        each.close()


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


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def refused(address: str, options: SourceOptions = QUICK) -> FrameSourceError:
    with pytest.raises(FrameSourceError) as raised:
        open_network(address, options)
    return raised.value


class TestCauses:
    """Each has a text of its own, and says which command finds out more."""

    ANSWERS: ClassVar[dict[str, tuple[str, Callable[[bytes], bytes | None], Cause, str]]] = {
        "rtsp, wrong password": (
            "rtsp",
            rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"'),
            "auth",
            "does not accept the user",
        ),
        "rtsp, forbidden": ("rtsp", rtsp("403 Forbidden"), "auth", "forbids access"),
        "rtsp, wrong path": ("rtsp", rtsp("404 Not Found"), "not_found", "no such stream"),
        "rtsp, server error": ("rtsp", rtsp("500 Internal Server Error"), "network", "answers with an error"),
        "rtsp, silence": ("rtsp", lambda _: None, "timeout", r"was given 1\.5 s"),
        "rtsp, nonsense": ("rtsp", lambda _: b"\r\n\r\n" * 9 + b"SSH-2.0-x\r\n", "network", "does not speak RTSP"),
        "http, wrong password": ("http", http("401 Unauthorized"), "auth", "does not accept the user"),
        "http, forbidden": ("http", http("403 Forbidden"), "auth", "forbids access"),
        "http, wrong path": ("http", http("404 Not Found"), "not_found", "no such stream"),
        "http, server error": ("http", http("503 Service Unavailable"), "network", "answers with an error"),
        "http, silence": ("http", lambda _: None, "timeout", r"was given 1\.5 s"),
        "http, a page": (
            "http",
            http("200 OK", b"<html>hello</html>" * 99),
            "no_video",
            "nothing that FFmpeg can read",
        ),
        "http, nothing": ("http", http("200 OK"), "no_video", "sends nothing"),
    }

    @pytest.mark.parametrize("case", ANSWERS)
    def test_of_an_answer(self, case: str, answering: Callable[..., Answering]) -> None:
        scheme, answer, cause, text = self.ANSWERS[case]
        server = answering(answer)
        error = refused(f"{scheme}://joe:hunter2@127.0.0.1:{server.port}/cam")
        assert server.requests
        assert (error.cause, error.__cause__, error.__context__) == (cause, None, None)
        assert re.search(text, error.problem), error.problem
        assert error.problem.startswith(f"{scheme}://***@127.0.0.1:{server.port}/cam")
        assert error.expected
        assert error.fix

    def test_nobody_listens(self) -> None:
        port = unused_port()
        for scheme in ("rtsp", "http", "rtmp", "tcp"):
            error = refused(f"{scheme}://127.0.0.1:{port}/a/b")
            assert error.cause == "refused"
            assert f"nc -zv 127.0.0.1 {port}" in error.fix

    def test_an_unknown_host(self) -> None:
        error = refused("rtsp://no-such-camera.invalid/1")
        assert error.cause == "network"
        assert "no such host" in error.problem
        assert "getent hosts no-such-camera.invalid" in error.fix

    def test_no_encryption_where_some_is_expected(self, answering: Callable[..., Answering]) -> None:
        server = answering(http("400 Bad Request"))
        error = refused(f"https://127.0.0.1:{server.port}/cam")
        assert error.cause == "tls"
        assert f"openssl s_client -connect 127.0.0.1:{server.port}" in error.fix

    def test_a_user_is_asked_for(self, answering: Callable[..., Answering]) -> None:
        server = answering(rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"'))
        error = refused(f"rtsp://127.0.0.1:{server.port}/cam")
        assert "asks for a user and a password" in error.problem
        assert "%40" in error.fix

    def test_a_port_to_which_nobody_sends(self) -> None:
        error = refused(f"udp://127.0.0.1:{unused_port()}")
        assert error.cause == "timeout"

    def test_a_protocol_that_this_build_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lacks(*_: object, **__: object) -> None:
            raise av.error.ProtocolNotFoundError(1330794744, "Protocol not found")

        monkeypatch.setattr(av, "open", lacks)
        error = refused("srt://127.0.0.1:9000")
        assert error.cause == "codec"
        assert "SRT is not in this build of FFmpeg" in error.problem

    @pytest.mark.parametrize(
        "address",
        ["rtsp://", "rtsp:///cam", "http://", "rtsp://h:99999/", "rtsp://h/\n", "rtsp://h/\udcff", "srt://", "h"],
    )
    def test_what_is_no_address(self, address: str) -> None:
        assert refused(address).expected

    def test_options_of_another_source(self) -> None:
        with pytest.raises(UsageError, match="CameraOptions"):
            open_network("rtsp://127.0.0.1/", CameraOptions())


class TestSecrets:
    """No part of a password appears, neither in errors nor on the terminal."""

    @pytest.mark.parametrize("secret", SECRETS)
    @pytest.mark.parametrize("kind", ["refused", "unauthorized", "silent", "unknown host"])
    def test_of_errors(self, kind: str, secret: str, answering: Callable[..., Answering]) -> None:
        unauthorized = rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"')
        if kind == "refused":
            port = unused_port()
        elif kind != "unknown host":
            port = answering(unauthorized if kind == "unauthorized" else lambda _: None).port
        host = "no-such-camera.invalid" if kind == "unknown host" else f"127.0.0.1:{port}"
        error = refused(f"rtsp://joe:{secret}@{host}/cam")
        told = "".join(traceback.format_exception(error)) + repr(error.__dict__)
        parts = [secret, *re.split(r"[@/:?#%]", secret)]
        shown = re.sub(r'File ".*', "", told)
        assert not [part for part in parts if len(part) > 2 and part in shown]
        assert "joe" not in shown

    def test_of_the_terminal(self) -> None:
        code = (
            "from vitedge.runtime.sources.video.network import open_network\n"
            f"try: open_network('rtsp://joe:hunter2@127.0.0.1:{unused_port()}/x')\n"
            "except Exception as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "refuses the connection" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
        assert done.stderr == ""

    @pytest.mark.parametrize("written", ["p@ss/w:d", "p%40ss%2Fw%3Ad", "p@ss/w%3Ad"])
    @pytest.mark.parametrize("scheme", ["rtsp", "http"])
    def test_a_password_is_sent_as_it_is_meant(
        self, scheme: str, written: str, answering: Callable[..., Answering]
    ) -> None:
        asks = rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"')
        server = answering(asks if scheme == "rtsp" else http("401 Unauthorized"))
        refused(f"{scheme}://joe:{written}@127.0.0.1:{server.port}/cam")
        sent = [match[1] for each in server.requests if (match := re.search(rb"Authorization: Basic (\S+)", each))]
        assert sent
        assert {base64.b64decode(each) for each in sent} == {b"joe:p@ss/w:d"}


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


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transport stream, which playlists and scripts can name."""
    return clips.write_clip(tmp_path_factory.mktemp("segment") / "segment.ts", 20, codec="MPG2")


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
        listed = playlist(f"http://127.0.0.1:{holder.port}/a.ts")
        server = answering(http("200 OK", listed, "application/vnd.apple.mpegurl"))
        with open_network(f"http://127.0.0.1:{server.port}/live.m3u8", QUICK) as source:
            assert not source.live
            assert clips.number_of(next(iter(source)).image) == 0


def playlist(entry: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n".encode()


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
        "playlist": playlist(f"file://{segment}"),
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
