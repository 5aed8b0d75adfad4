"""Files and streams that name other files and addresses, and the variable by which FFmpeg is told not to follow."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources import capture, ffmpeg
from vitedge.runtime.sources.ffmpeg import FILE_OPTIONS, STREAM_OPTIONS, VARIABLE, ffmpeg_options
from vitedge.runtime.sources.open import open_source

cv2 = pytest.importorskip("cv2")

import clips  # noqa: E402 - needs OpenCV

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transport stream, which playlists and scripts can name."""
    return clips.write_clip(tmp_path_factory.mktemp("segment") / "segment.ts", 20, codec="MPG2")


class Server:
    """Sends the same bytes to everybody who connects, whatever they ask; HTTP where they begin like it."""

    def __init__(self) -> None:
        self.content = b""
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def answer(self, content: bytes, kind: str) -> None:
        head = f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
        self.content = head.encode() + content

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                if self.content.startswith(b"HTTP"):
                    connection.recv(4096)
                connection.sendall(self.content)


@pytest.fixture
def canary() -> Iterator[Server]:
    """Counts who connects to it."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A stranger's server of streams."""
    server = Server()
    yield server
    server.close()


def playlist(entry: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n".encode()


def session(port: int) -> bytes:
    return f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 33\n".encode()


def dash(base: str) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="1"><BaseURL>{base}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>"
    ).encode()


POINTING = {
    "concat": lambda path, _: f"ffconcat version 1.0\nfile {path.name}\n".encode(),
    "concat of another folder": lambda path, _: f"ffconcat version 1.0\nfile {path}\n".encode(),
    "concat of an address": lambda _, port: f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.ts\n".encode(),
    "playlist": lambda path, _: playlist(path.name),
    "playlist of another folder": lambda path, _: playlist(f"file://{path}"),
    "playlist of an address": lambda _, port: playlist(f"http://127.0.0.1:{port}/a.ts"),
    "playlist of a protocol": lambda path, _: playlist(f"concat:{path}|{path}"),
    "session": lambda _, port: session(port),
    "dash": lambda _, port: dash(f"http://127.0.0.1:{port}/a.mp4"),
    "video before a session": lambda _, port: b"\x1a\x45\xdf\xa3\n" + session(port),
    "video before dash": lambda _, port: b"\x1a\x45\xdf\xa3\n" + dash(f"http://127.0.0.1:{port}/a.mp4"),
}


@pytest.mark.parametrize("checked", [True, False], ids=["by its beginning", "by FFmpeg"])
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "sdp", "ffconcat", "mpd"])
@pytest.mark.parametrize("name", POINTING)
def test_a_file_opens_no_other(
    name: str,
    suffix: str,
    checked: bool,
    segment: Path,
    tmp_path: Path,
    canary: Server,
    monkeypatch: pytest.MonkeyPatch,
):
    """Two guards refuse it; each does without the other."""
    if not checked:
        monkeypatch.setattr(capture, "check_container", lambda _: None)
    beside = Path(shutil.copy(segment, tmp_path / "beside.ts"))
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(POINTING[name](beside, canary.port))
    with pytest.raises(FrameSourceError, match=rf"clip\.{suffix} .* is not a video"):
        open_source(path)
    assert canary.connections == 0


def test_such_files_would_open_others(segment: Path, tmp_path: Path):
    """What the test above rests on."""
    beside = Path(shutil.copy(segment, tmp_path / "beside.ts"))
    for name in ("concat", "playlist of another folder"):
        path = tmp_path / "clip.m3u8"
        path.write_bytes(POINTING[name](beside, 0))
        assert len(clips.read_clip(path)) == 20


@pytest.mark.parametrize(
    "name", ["concat:segment.ts", "subfile,,start,0,end,0,,:segment.ts", "http:", "img%03d.ts", "-"]
)
def test_the_name_of_a_file_is_no_address(name: str, segment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(segment, name)
    with open_source(name) as source:
        assert sum(1 for _ in source) == 20


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("kind", ["playlist", "concat"])
def test_a_stream_opens_no_file(
    kind: str, scheme: str, segment: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_SECONDS", 3.0)
    shutil.copy(segment, tmp_path / "segment.ts")
    content = playlist(f"file://{segment}") if kind == "playlist" else b"ffconcat version 1.0\nfile segment.ts\n"
    if scheme == "http":
        server.answer(content, "application/vnd.apple.mpegurl" if kind == "playlist" else "text/plain")
    else:
        server.content = content
    with pytest.raises(FrameSourceError, match="does not answer with a video"):
        open_source(f"{scheme}://127.0.0.1:{server.port}/live.m3u8")
    assert server.connections


def test_playlists_of_a_server_work(segment: Path, server: Server, canary: Server):
    canary.answer(segment.read_bytes(), "video/mp2t")
    server.answer(playlist(f"http://127.0.0.1:{canary.port}/a.ts"), "application/vnd.apple.mpegurl")
    with open_source(f"http://127.0.0.1:{server.port}/live.m3u8") as source:
        assert clips.number_of(next(iter(source)).image) == 0


class TestOptions:
    def test_the_variable_is_as_before(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv(VARIABLE, raising=False)
        with ffmpeg_options(FILE_OPTIONS):
            assert os.environ[VARIABLE] == FILE_OPTIONS
        assert VARIABLE not in os.environ

    def test_the_users_options_stay(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(VARIABLE, "rtsp_transport;udp")
        with ffmpeg_options(STREAM_OPTIONS):
            assert os.environ[VARIABLE] == f"{STREAM_OPTIONS}|rtsp_transport;udp"
        assert os.environ[VARIABLE] == "rtsp_transport;udp"

    def test_an_error_leaves_the_variable_as_before(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv(VARIABLE, raising=False)
        with pytest.raises(KeyError), ffmpeg_options(FILE_OPTIONS):
            raise KeyError
        assert VARIABLE not in os.environ

    def test_the_same_options_are_shared_and_others_wait(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv(VARIABLE, raising=False)
        entered, leave = [threading.Event() for _ in range(3)], threading.Event()

        def hold(number: int, options: str) -> None:
            with ffmpeg_options(options):
                assert os.environ[VARIABLE] == options
                entered[number].set()
                leave.wait(30)

        holders = [
            threading.Thread(target=hold, args=(number, options))
            for number, options in enumerate((STREAM_OPTIONS, STREAM_OPTIONS, FILE_OPTIONS))
        ]
        for holder in holders[:2]:
            holder.start()
        assert all(each.wait(30) for each in entered[:2])
        holders[2].start()
        assert not entered[2].wait(0.2)
        assert os.environ[VARIABLE] == STREAM_OPTIONS
        leave.set()
        for holder in holders:
            holder.join(30)
        assert entered[2].is_set()
        assert VARIABLE not in os.environ

    def test_many_threads_never_see_the_options_of_others(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv(VARIABLE, raising=False)
        wrong: list[str] = []

        def use(options: str) -> None:
            for _ in range(200):
                with ffmpeg_options(options):
                    if os.environ[VARIABLE] != options:
                        wrong.append(options)

        users = [threading.Thread(target=use, args=((FILE_OPTIONS, STREAM_OPTIONS)[each % 2],)) for each in range(8)]
        for user in users:
            user.start()
        for user in users:
            user.join(30)
        assert not wrong
        assert not any(user.is_alive() for user in users)
        assert VARIABLE not in os.environ

    def test_no_protocol_of_files_is_among_those_of_streams(self):
        protocols = set(STREAM_OPTIONS.partition("protocol_whitelist;")[2].partition("|")[0].split(","))
        assert not protocols & {"file", "concat", "concatf", "subfile", "data", "pipe", "fd", "unix", "cache", "md5"}
        assert not {"concat", "image2", "sdp", "lavfi"} & set(ffmpeg._CONTAINERS + ffmpeg._STREAMED)


FORKED = """
import os, signal, threading
from vitedge.runtime.sources.ffmpeg import FILE_OPTIONS, STREAM_OPTIONS, ffmpeg_options

opening, ended = threading.Event(), threading.Event()


def open_slowly():
    with ffmpeg_options(STREAM_OPTIONS):
        opening.set()
        ended.wait()


thread = threading.Thread(target=open_slowly)
thread.start()
opening.wait()
if os.fork() == 0:
    signal.alarm(10)
    with ffmpeg_options(FILE_OPTIONS):
        os._exit(0)
code = os.waitstatus_to_exitcode(os.wait()[1])
ended.set()
thread.join()
raise SystemExit(code)
"""


def test_a_forked_child_does_not_wait_for_threads_of_its_parent():
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED], check=False)
    assert done.returncode == 0
