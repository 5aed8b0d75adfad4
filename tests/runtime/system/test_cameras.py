from __future__ import annotations

import errno
import grp
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from vitedge.runtime.system import cameras
from vitedge.runtime.system.cameras import (
    captures_video,
    is_multiplanar,
    lasting_path,
    list_cameras,
    list_formats,
    list_holders,
    permission_fix,
)

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


class TestPermission:
    @pytest.fixture
    def denied(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """``denied(group, number)``: the advice for a device of a group that this user may not open."""

        def advice(group: int, number: int = errno.EACCES) -> str:
            found = os.stat_result((stat.S_IFCHR, 0, 0, 0, 0, group, 0, 0, 0, 0))
            monkeypatch.setattr(Path, "stat", lambda *_, **__: found)
            return permission_fix(Path("/dev/video0"), PermissionError(number, os.strerror(number)))

        return advice

    def test_the_list_says_it(self, devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (devices / "dev" / "video0").touch()

        def refused(*_: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refused)
        (camera,) = list_cameras()
        assert not camera.usable
        assert camera.problem.startswith("permission denied: ")

    def test_it_names_the_group_of_the_device(self, denied: Callable[..., str]) -> None:
        video = grp.getgrnam("video").gr_gid
        assert "sudo usermod -aG video $USER" in denied(video)

    def test_a_group_without_a_name_has_a_number(self, denied: Callable[..., str]) -> None:
        assert "docker run --group-add 54321" in denied(54321)

    def test_nobody_is_told_to_join_the_group_of_root(self, denied: Callable[..., str]) -> None:
        said = denied(0)
        assert "usermod" not in said
        assert "chgrp video" in said

    def test_a_member_of_a_group_without_rights(
        self, denied: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        video = grp.getgrnam("video").gr_gid
        monkeypatch.setattr(os, "getgroups", lambda: [video])
        assert "chmod g+rw" in denied(video)

    def test_a_container_without_the_device(self, denied: Callable[..., str]) -> None:
        assert "docker run --device" in denied(44, errno.EPERM)


class TestHolders:
    def test_a_process_that_has_a_device_open_is_named(self) -> None:
        with Path("/dev/full").open("wb"):
            found = list_holders(Path("/dev/full"))
        assert (os.getpid(), Path("/proc/self/comm").read_text().strip()) in [(each.pid, each.name) for each in found]

    def test_nobody_has_it(self, tmp_path: Path) -> None:
        assert os.getpid() not in [each.pid for each in list_holders(Path("/dev/full"))]
        assert list_holders(tmp_path / "none") == ()

    def test_a_file_of_the_same_number_is_no_device(self, tmp_path: Path) -> None:
        with (tmp_path / "a").open("w"):
            assert list_holders(tmp_path / "a") == ()


class TestLastingPaths:
    @pytest.fixture
    def camera(self, devices: Path) -> Path:
        for number, folder, link in ((0, "by-id", "usb-A_1234-index0"), (0, "by-path", "pci-usb-1"), (2, "by-id", "b")):
            place = devices / "dev" / "v4l" / folder
            place.mkdir(parents=True, exist_ok=True)
            (devices / "dev" / f"video{number}").touch()
            (place / link).symlink_to(f"../../video{number}")
        return devices / "dev" / "video0"

    def test_the_serial_number_comes_first(self, camera: Path) -> None:
        assert lasting_path(camera) == camera.parent / "v4l" / "by-id" / "usb-A_1234-index0"

    def test_the_socket_of_a_camera_without_a_serial_number(self, camera: Path) -> None:
        (camera.parent / "v4l" / "by-id" / "usb-A_1234-index0").unlink()
        assert lasting_path(camera) == camera.parent / "v4l" / "by-path" / "pci-usb-1"

    def test_the_socket_of_one_of_two_of_the_same_name(
        self, camera: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (0, 2):
            (devices / "names" / f"video{number}").mkdir()
            (devices / "names" / f"video{number}" / "name").write_text("HD Webcam\n")
        monkeypatch.setattr(cameras, "_problem", lambda _: "")
        assert lasting_path(camera) == camera.parent / "v4l" / "by-path" / "pci-usb-1"

    def test_a_lasting_path_is_kept(self, camera: Path) -> None:
        by_path = camera.parent / "v4l" / "by-path" / "pci-usb-1"
        assert lasting_path(by_path) == by_path

    def test_no_link_leads_to_it(self, devices: Path) -> None:
        (devices / "dev" / "video4").touch()
        assert lasting_path(devices / "dev" / "video4") is None
        assert lasting_path(devices / "dev" / "video5") is None

    def test_the_camera_has_another_number_afterwards(self, camera: Path) -> None:
        lasting = lasting_path(camera)
        assert lasting is not None
        lasting.unlink()
        camera.rename(camera.with_name("video3"))
        lasting.symlink_to("../../video3")
        assert lasting.resolve() == camera.with_name("video3")


def test_the_formats_of_a_camera(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (devices / "dev" / "video0").touch()

    def answer(descriptor: int, request: int, buffer: bytearray) -> int:
        assert (request, len(buffer)) == (0xC0405602, 64)
        index = int.from_bytes(buffer[:4], "little")
        if index > 1:
            raise OSError(errno.EINVAL, "no more")
        buffer[44:48] = (b"MJPG", b"YUYV")[index]
        return 0

    monkeypatch.setattr("fcntl.ioctl", answer)
    before = open_files()
    assert list_formats(devices / "dev" / "video0") == ("MJPG", "YUYV")
    assert open_files() == before
    assert list_formats(devices / "dev" / "video1") == ()


@pytest.mark.parametrize(
    ("own", "expected"),
    [(VIDEO_CAPTURE_MULTIPLANAR, True), (VIDEO_CAPTURE, False), (VIDEO_CAPTURE | VIDEO_CAPTURE_MULTIPLANAR, False)],
)
def test_planes_apart(own: int, expected: bool, devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (devices / "dev" / "video0").touch()

    def answer(descriptor: int, request: int, buffer: bytearray) -> int:
        buffer[:] = capability(own | DEVICE_CAPABILITIES, own)
        return 0

    monkeypatch.setattr("fcntl.ioctl", answer)
    assert is_multiplanar(devices / "dev" / "video0") is expected


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
