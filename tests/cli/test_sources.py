"""Sources of ``vitedge run``: one, several with names, and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitedge.cli.sources import named_sources
from vitedge.errors import FrameSourceError, UsageError


@pytest.mark.parametrize(
    "source",
    [
        "0",
        "clip.mp4",
        "rtsp://me:a=b@camera/1?transport=udp",
        "rtspsrc location=rtsp://camera/1 ! appsink",
        "gst:videotestsrc pattern=ball ! video/x-raw",
        "v4l2:///dev/video0?fps=30",
        "/dev/v4l/by-id/usb-x=y",
        "test://?frames=3",
    ],
)
def test_an_equals_sign_of_an_address_makes_no_name(source: str) -> None:
    assert named_sources([source]) is None
    assert named_sources([f"door={source}"]) == {"door": source}
    assert named_sources([source, f"door={source}"]) == {"1": source, "door": source}


def test_a_path_that_exists_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    assert named_sources(["a=b.mp4"]) is None
    assert named_sources(["c=d.mp4"]) == {"c": "d.mp4"}
    assert named_sources(["x=a=b.mp4"]) == {"x": "a=b.mp4"}


def test_a_list_adds_its_own_names(tmp_path: Path) -> None:
    path = tmp_path / "cameras.streams"
    path.write_text("door = rtsp://camera/1\n0\n")
    assert named_sources([str(path)]) == {"door": "rtsp://camera/1", "2": "0"}
    assert named_sources([str(path), "yard=1"]) == {"door": "rtsp://camera/1", "2": "0", "yard": "1"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["a=0", "a=1"], "two sources have the name 'a'"),
        (["2=0", "1"], "two sources have the name '2'"),
        (["=rtsp://me:secret@camera/1"], "rtsp://***@camera/1 has no name"),
        (["..=0"], "a camera is named '..'"),
        ([".hidden=0"], "a camera is named '.hidden'"),
        (["x=all.streams"], "cannot have the name 'x'"),
    ],
)
def test_names_that_are_wrong(given: list[str], problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        named_sources(given)
    assert problem in raised.value.problem


def test_a_list_that_is_not_there() -> None:
    with pytest.raises(FrameSourceError, match=r"nowhere\.streams cannot be read: No such file or directory\n"):
        named_sources(["nowhere.streams"])
