"""The V4L2 devices of this machine: names, formats, lasting paths, and what keeps one from being opened."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/dev")
NAMES = Path("/sys/class/video4linux")
PROCESSES = Path("/proc")
MOST_FORMATS = 64

# linux/videodev2.h: struct v4l2_capability is 104 bytes; driver, card, bus_info, version, capabilities, device_caps.
_CAPABILITY = struct.Struct("16s32s32sIII12x")
_QUERY_CAPABILITY = 0x80685600
_VIDEO_CAPTURE = 0x00000001 | 0x00001000  # single- and multi-planar
_VIDEO_CAPTURE_MULTIPLANAR = 0x00001000
_HAS_DEVICE_CAPABILITIES = 0x80000000
# struct v4l2_fmtdesc: index, type, flags, description, pixelformat, mbus_code and reserved fields.
_FORMAT = struct.Struct("III32sI16x")
_ENUMERATE_FORMATS = 0xC0405602
_CAPTURE_BUFFERS = 1


@dataclass(frozen=True)
class Camera:
    """A ``/dev/video*`` device.

    Attributes:
        path: path of the device.
        name: name from its driver; empty if it cannot be read.
        usable: whether it can be opened and captures video.
        problem: why it is not usable; empty if it is.
    """

    path: str
    name: str
    usable: bool
    problem: str


@dataclass(frozen=True)
class Holder:
    """A process that has a device open.

    Attributes:
        pid: its number.
        name: name of its program, as the kernel shows it.
    """

    pid: int
    name: str


def list_cameras() -> tuple[Camera, ...]:
    """List all V4L2 devices in the order of their numbers."""
    devices = sorted(DEVICES.glob("video[0-9]*"), key=lambda path: int(path.name[len("video") :]))
    return tuple(_camera(path) for path in devices)


def _camera(path: Path) -> Camera:
    problem = _problem(path)
    return Camera(path=str(path), name=_name(path), usable=not problem, problem=problem)


def _name(path: Path) -> str:
    try:
        return (NAMES / path.name / "name").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _problem(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except PermissionError as error:
        return f"permission denied: {permission_fix(path, error)}"
    except OSError as error:
        return f"does not open: {error.strerror}"
    try:
        return _capture_problem(descriptor)
    finally:
        os.close(descriptor)


def _capture_problem(descriptor: int) -> str:
    import fcntl  # Linux and macOS only

    answer = bytearray(_CAPABILITY.size)
    try:
        fcntl.ioctl(descriptor, _QUERY_CAPABILITY, answer)
    except OSError as error:
        no_camera = error.errno in (errno.ENOTTY, errno.EINVAL) or not stat.S_ISCHR(os.fstat(descriptor).st_mode)
        return "not a V4L2 device" if no_camera else f"no answer: {error.strerror}"
    return "" if captures_video(bytes(answer)) else "delivers no video (metadata or output node)"


def captures_video(capability: bytes) -> bool:
    """Decide whether a ``struct v4l2_capability`` says that this device itself captures video."""
    *_, whole, own = _CAPABILITY.unpack(capability)
    return bool((own if whole & _HAS_DEVICE_CAPABILITIES else whole) & _VIDEO_CAPTURE)


def is_multiplanar(path: Path) -> bool:
    """Decide whether a camera keeps its planes apart (V4L2's multi-planar API), which FFmpeg does not read."""
    capability = _queried(path, _QUERY_CAPABILITY, bytearray(_CAPABILITY.size))
    if capability is None:
        return False
    *_, whole, own = _CAPABILITY.unpack(capability)
    found = own if whole & _HAS_DEVICE_CAPABILITIES else whole
    return bool(found & _VIDEO_CAPTURE_MULTIPLANAR) and not found & (_VIDEO_CAPTURE & ~_VIDEO_CAPTURE_MULTIPLANAR)


def list_formats(path: Path) -> tuple[str, ...]:
    """List the pixel formats that a camera offers, as four characters each; none if it does not say."""
    found: list[str] = []
    for index in range(MOST_FORMATS):
        asked = bytearray(_FORMAT.pack(index, _CAPTURE_BUFFERS, 0, b"", 0))
        answer = _queried(path, _ENUMERATE_FORMATS, asked)
        if answer is None:
            break
        found.append(_FORMAT.unpack(answer)[4].to_bytes(4, "little").decode("ascii", "replace").strip())
    return tuple(found)


def list_holders(path: Path) -> tuple[Holder, ...]:
    """List the processes that have a device open, as far as this user may see them."""
    try:
        wanted = path.stat()
    except OSError:
        return ()
    numbers = sorted(int(each.name) for each in _children(PROCESSES) if each.name.isdecimal())
    return tuple(Holder(pid, _program(pid)) for pid in numbers if _has_open(pid, wanted))


def lasting_path(path: Path) -> Path | None:
    """Return a path under which udev finds the same camera after it was unplugged and has another number.

    It is the path by the camera's serial number (``by-id``); the path by its socket (``by-path``) where there is none,
    or where another camera has the same name, so that the serial number may be no one's own. None without either. A
    path that is of one of these kinds is returned as it is.
    """
    if path.parent in (DEVICES / "v4l" / "by-id", DEVICES / "v4l" / "by-path"):
        return path
    by_id, by_path = (_link_to(path, DEVICES / "v4l" / folder) for folder in ("by-id", "by-path"))
    if by_id is None or by_path is None:
        return by_id or by_path
    return by_path if _has_a_twin(path) else by_id


def permission_fix(path: Path, error: OSError) -> str:
    """Say how this user gets the right to open a device."""
    if error.errno == errno.EPERM:
        return f"a container must be given the device: docker run --device {path}"
    try:
        number = path.stat().st_gid
    except OSError:
        return "ask the administrator of this machine"
    group = _group_name(number)
    if number == 0:
        return f"it belongs to root alone: sudo chgrp video {path} && sudo chmod g+rw {path}, as a rule of udev does"
    if group is None:
        return f"its group has the number {number} and no name here: docker run --group-add {number}"
    if number in os.getgroups():
        return f"its group {group}, which you are in, has no right to it: sudo chmod g+rw {path}"
    return f"add yourself to the group {group} (sudo usermod -aG {group} $USER), then log in again"


def _group_name(number: int) -> str | None:
    import grp  # not on Windows

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return None


def _queried(path: Path, request: int, answer: bytearray) -> bytes | None:
    """Ask a device; None if it cannot be opened or does not answer."""
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.ioctl(descriptor, request, answer)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return bytes(answer)


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:  # another user's, or a process that has just ended
        return


def _program(pid: int) -> str:
    try:
        return (PROCESSES / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    for link in _children(PROCESSES / str(pid) / "fd"):
        try:
            found = link.stat()
        except OSError:
            continue
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == wanted.st_rdev and stat.S_ISCHR(wanted.st_mode):
            return True
    return False


def _link_to(path: Path, folder: Path) -> Path | None:
    try:
        device = path.resolve(strict=True)
        return next((link for link in sorted(_children(folder)) if link.resolve() == device), None)
    except (OSError, RuntimeError):
        return None


def _has_a_twin(path: Path) -> bool:
    """Decide whether another camera that captures has the name of this one."""
    try:
        device = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    name = _name(device)
    return any(each.name == name and Path(each.path) != device and each.usable for each in list_cameras())
