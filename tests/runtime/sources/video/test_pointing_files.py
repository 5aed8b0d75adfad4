"""Files that name other files or addresses: nothing else is opened."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.video import file as video_file

pytest.importorskip("av")

import clips

pytestmark = pytest.mark.timeout(120)


class Canary:
    """Counts who connects to it."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    server = Canary()
    yield server
    server.close()


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
    "playlist": lambda path, _: clips.playlist(path.name),
    "playlist of another folder": lambda path, _: clips.playlist(f"file://{path}"),
    "playlist of an address": lambda _, port: clips.playlist(f"http://127.0.0.1:{port}/a.ts"),
    "playlist of a protocol": lambda path, _: clips.playlist(f"concat:{path}|{path}"),
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
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two guards refuse it; each does without the other."""
    if not checked:
        monkeypatch.setattr(video_file, "check_container", lambda _: None)
    beside = Path(shutil.copy(segment, tmp_path / "beside.ts"))
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(POINTING[name](beside, canary.port))
    with pytest.raises(FrameSourceError, match=rf"clip\.{suffix} .* is not a video"):
        open_source(path)
    assert canary.connections == 0


def test_such_files_would_open_others(segment: Path, tmp_path: Path) -> None:
    """The test above rests on it."""
    beside = Path(shutil.copy(segment, tmp_path / "beside.ts"))
    path = tmp_path / "clip.m3u8"
    path.write_bytes(POINTING["playlist of another folder"](beside, 0))
    assert len(clips.read_clip(path)) == 20


@pytest.mark.parametrize(
    "name", ["concat:segment.ts", "subfile,,start,0,end,0,,:segment.ts", "http:", "img%03d.ts", "-"]
)
def test_the_name_of_a_file_is_no_address(
    name: str, segment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(segment, name)
    with open_source(name) as source:
        assert sum(1 for _ in source) == 20


def test_no_format_that_follows_names_is_among_those_of_files() -> None:
    formats = set(video_file.OPTIONS["format_whitelist"].split(","))
    assert not formats & {"concat", "hls", "dash", "sdp", "rtsp", "image2", "lavfi", "tty"}
    assert video_file.OPTIONS["protocol_whitelist"] == "file"
