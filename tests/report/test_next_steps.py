"""Commands that are printed run as they are printed, on machines with and without cameras and screens."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import main
from vitedge.errors import VitedgeError
from vitedge.report import next_steps
from vitedge.report.next_steps import activate_command, watch_command
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


def test_a_shell_that_does_not_find_vitedge_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "activate").write_text(f"PATH={shlex.quote(str(folder))}:$PATH")
    (folder / "vitedge").write_text("#!/bin/sh\necho found")
    (folder / "vitedge").chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(folder.parent))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert activate_command() == ". 'a venv/bin/activate'"
    said = subprocess.run(["sh", "-c", f"{activate_command()} && vitedge"], capture_output=True, check=True).stdout
    assert said == b"found\n"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin")
    assert activate_command() == ""
