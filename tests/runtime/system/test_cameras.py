from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from vitedge.runtime.system import cameras
from vitedge.runtime.system.cameras import captures_video, list_cameras

VIDEO_CAPTURE = 0x00000001
VIDEO_CAPTURE_MULTIPLANAR = 0x00001000
VIDEO_OUTPUT = 0x00000002
META_CAPTURE = 0x00800000
DEVICE_CAPABILITIES = 0x80000000


def capability(whole: int, own: int) -> bytes:
    return struct.pack("16s32s32sIII12x", b"uvcvideo", b"HD Webcam", b"usb-1", 0x060800, whole, own)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "names").mkdir()
    monkeypatch.setattr(cameras, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(cameras, "NAMES", tmp_path / "names")
    return tmp_path


@pytest.mark.parametrize(
    ("whole", "own", "expected"),
    [
        (VIDEO_CAPTURE, 0, True),
        (VIDEO_OUTPUT, 0, False),
        (VIDEO_CAPTURE | META_CAPTURE | DEVICE_CAPABILITIES, VIDEO_CAPTURE, True),
        (VIDEO_CAPTURE | META_CAPTURE | DEVICE_CAPABILITIES, META_CAPTURE, False),
        (VIDEO_CAPTURE_MULTIPLANAR | DEVICE_CAPABILITIES, VIDEO_CAPTURE_MULTIPLANAR, True),
    ],
)
def test_the_node_decides_not_the_whole_camera(whole: int, own: int, expected: bool) -> None:
    assert captures_video(capability(whole, own)) is expected


def test_none() -> None:
    assert captures_video(capability(0, 0)) is False


def test_no_devices(devices: Path) -> None:
    assert list_cameras() == ()


def test_a_file_that_is_no_device_is_not_a_camera(devices: Path) -> None:
    (devices / "dev" / "video10").touch()
    (devices / "dev" / "video2").touch()
    (devices / "names" / "video2").mkdir()
    (devices / "names" / "video2" / "name").write_text("HD Webcam\n")
    second, tenth = list_cameras()
    assert (second.path, second.name) == (str(devices / "dev" / "video2"), "HD Webcam")
    assert (tenth.name, tenth.usable, tenth.problem) == ("", False, "not a V4L2 device")


def test_permission_denied_says_which_group(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (devices / "dev" / "video0").touch()

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    (camera,) = list_cameras()
    assert not camera.usable
    assert "group video" in camera.problem


def test_a_capture_device_is_usable_and_is_closed(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (devices / "dev" / "video0").touch()

    def answer(descriptor: int, request: int, buffer: bytearray) -> int:
        assert request == 0x80685600
        buffer[:] = capability(VIDEO_CAPTURE | DEVICE_CAPABILITIES, VIDEO_CAPTURE)
        return 0

    monkeypatch.setattr("fcntl.ioctl", answer)
    before = open_files()
    (camera,) = list_cameras()
    assert camera.usable
    assert camera.problem == ""
    assert open_files() == before
