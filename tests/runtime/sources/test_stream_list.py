"""``.streams`` files."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitedge.errors import FrameSourceError, UsageError
from vitedge.runtime.sources import stream_list
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.stream_list import read_streams


def written(folder: Path, text: str) -> Path:
    path = folder / "yard.streams"
    path.write_text(text, encoding="utf-8")
    return path


class TestReading:
    def test_names_addresses_and_comments(self, tmp_path: Path):
        path = written(
            tmp_path,
            "# the yard\n\ndoor = rtsp://camera-1/a?transport=udp#1\n  gate=/dev/video0  \n"
            "http://camera/?a=1&b=2\n0\ngst:videotestsrc pattern=ball ! video/x-raw\ntest://?fps=5",
        )
        assert read_streams(path) == {
            "door": "rtsp://camera-1/a?transport=udp#1",
            "gate": "/dev/video0",
            "3": "http://camera/?a=1&b=2",
            "4": "0",
            "5": "gst:videotestsrc pattern=ball ! video/x-raw",
            "6": "test://?fps=5",
        }

    def test_names_may_have_spaces_and_any_letters(self, tmp_path: Path):
        assert read_streams(written(tmp_path, "back door = 1\nTür № 2 = 2")) == {"back door": "1", "Tür № 2": "2"}

    def test_an_address_may_hold_equals_signs(self, tmp_path: Path):
        address = "rtsp://camera/user=admin&password=x&channel=1"
        assert list(read_streams(written(tmp_path, address)).values()) == [address]

    def test_paths_are_relative_to_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir("/")
        streams = read_streams(written(tmp_path, "a = clip.mp4\nb = sub/photos/*.jpg\nc = /abs/clip.mp4"))
        assert list(streams.values()) == [
            str(tmp_path / "clip.mp4"),
            str(tmp_path / "sub/photos/*.jpg"),
            "/abs/clip.mp4",
        ]

    def test_a_byte_order_mark_and_windows_lines(self, tmp_path: Path):
        path = tmp_path / "a.streams"
        path.write_bytes("\ufeffdoor = 1\r\n\r\ngate = 2\r\n".encode())
        assert read_streams(path) == {"door": "1", "gate": "2"}

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("a = 1\na = 2", "line 2 of .* has the name 'a'"),
            ("= rtsp://camera", "line 1 of .* is no address"),
            ("1 = a.mp4\nb.mp4\n2 = c.mp4", "line 3 of .* has the name '2'"),
            ("a = 1\n.. = 2", r"line 2 of .*: a camera is named '\.\.'"),
            (".hidden = 1", r"line 1 of .*: a camera is named '\.hidden'"),
            (f"{'x' * 101} = 1", "line 1 of .*: a camera is named 'x"),
            ("a = other.streams", "line 1 of .* is another list"),
        ],
    )
    def test_wrong_lines_are_named(self, text: str, match: str, tmp_path: Path):
        with pytest.raises(UsageError, match=match):
            read_streams(written(tmp_path, text))

    def test_a_wrong_line_shows_no_password(self, tmp_path: Path):
        with pytest.raises(UsageError) as raised:
            read_streams(written(tmp_path, "= rtsp://admin:geheim@camera"))
        assert "geheim" not in str(raised.value)

    def test_too_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(stream_list, "MOST_STREAMS", 2)
        with pytest.raises(UsageError, match="2 are the most"):
            read_streams(written(tmp_path, "1\n2\n3"))

    @pytest.mark.parametrize("text", ["", "# nothing\n\n"])
    def test_an_empty_list(self, text: str, tmp_path: Path):
        with pytest.raises(FrameSourceError, match="holds no address"):
            read_streams(written(tmp_path, text))

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a = " + b"x" * (1 << 21)])
    def test_a_file_that_is_no_list(self, content: bytes, tmp_path: Path):
        path = tmp_path / "a.streams"
        path.write_bytes(content)
        with pytest.raises(FrameSourceError, match="cannot be read"):
            read_streams(path)


class TestOpening:
    def test_one_stream_is_opened(self, tmp_path: Path):
        with open_source(written(tmp_path, "demo = test://?frames=3&size=64x64")) as source:
            assert len(list(source)) == 3

    def test_several_are_for_streams(self, tmp_path: Path):
        with pytest.raises(UsageError, match="lists 2 streams") as raised:
            open_source(str(written(tmp_path, "test://?frames=3\ntest://?frames=4")))
        assert "classifier.streams" in raised.value.fix

    def test_a_missing_one_is_a_missing_source(self, tmp_path: Path):
        with pytest.raises(FrameSourceError, match="there is no source"):
            open_source(tmp_path / "yard.streams")
