"""The V4L2 devices of this machine, and whether they can be opened as a source."""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/dev")
NAMES = Path("/sys/class/video4linux")

# linux/videodev2.h: struct v4l2_capability is 104 bytes; driver, card, bus_info, version, capabilities, device_caps.
_CAPABILITY = struct.Struct("16s32s32sIII12x")
_QUERY_CAPABILITY = 0x80685600
_VIDEO_CAPTURE = 0x00000001 | 0x00001000  # single- and multi-planar
_HAS_DEVICE_CAPABILITIES = 0x80000000


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
    except PermissionError:
        return "permission denied: add yourself to the group video (sudo usermod -aG video $USER), then log in again"
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
    """Whether a ``struct v4l2_capability`` says that this device itself captures video."""
    *_, whole, own = _CAPABILITY.unpack(capability)
    return bool((own if whole & _HAS_DEVICE_CAPABILITIES else whole) & _VIDEO_CAPTURE)
