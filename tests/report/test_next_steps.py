"""Commands that are printed run as they are printed, on machines with and without cameras and screens."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import main
from vitedge.errors import VitedgeError
from vitedge.report import next_steps
from vitedge.report.next_steps import watch_command
from vitedge.runtime.system.cameras import Camera

CAMERAS = (Camera("/dev/video0", "metadata", False, "captures no video"), Camera("/dev/video2", "webcam", True, ""))


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_steps, "list_cameras", lambda: CAMERAS)


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(next_steps, "require", lambda *_, **__: None)
    monkeypatch.setattr(next_steps, "check_window", lambda _: None)


@pytest.mark.usefixtures("cameras", "desktop")
def test_a_window_is_recommended_where_one_opens() -> None:
    assert watch_command(Path("a b")) == "vitedge run 'a b' --source /dev/video2 --show"


@pytest.mark.usefixtures("cameras", "desktop")
@pytest.mark.parametrize("lacking", ["a screen", "windows", "OpenCV"])
def test_no_window_is_recommended_where_none_can_open(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise VitedgeError(lacking)

    if lacking == "a screen":
        monkeypatch.delenv("DISPLAY")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    else:
        monkeypatch.setattr(next_steps, "check_window" if lacking == "windows" else "require", fails)
    assert watch_command(Path("a")) == "vitedge run a --source /dev/video2"


@pytest.mark.usefixtures("desktop")
def test_without_a_camera_the_command_runs_on_a_recording_or_a_test_picture(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(next_steps, "list_cameras", lambda: CAMERAS[:1])
    assert watch_command(Path("a"), "clip 1.mp4") == "vitedge run a --source 'clip 1.mp4'"
    program, *arguments = shlex.split(watch_command(tiny_bundle.path))
    assert (program, main(arguments)) == ("vitedge", 0)
    assert capsys.readouterr().err.startswith("100 predictions")
