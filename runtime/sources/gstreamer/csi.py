"""``csi://0``: the pipeline of a camera on the ribbon cable of a Jetson or a Raspberry Pi.

Nothing here has run on such a device yet.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Literal

from vitedge.errors import FrameSourceError, UsageError
from vitedge.runtime.sources.options import CameraOptions

Board = Literal["jetson", "raspberry-pi"]

COMPATIBLE = Path("/proc/device-tree/compatible")
DEFAULT_SIZE = (1280, 720)
DEFAULT_FPS = 30.0
MOST_SENSORS = 16
LIST_SECONDS = 15.0
_LISTERS = ("rpicam-hello", "libcamera-hello")
_LISTED = re.compile(r"^\s*(?P<index>\d+)\s*:\s.*\((?P<path>/base/[^)]+)\)\s*$", re.MULTILINE)
_NEWEST = ["!", "queue", "leaky=downstream", "max-size-buffers=1"]
"""A camera that waits for its reader would hand out old frames."""


def read_board() -> Board | None:
    """Return the kind of this board; None if it is neither a Jetson nor a Raspberry Pi."""
    try:
        compatible = COMPATIBLE.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    if "nvidia,tegra" in compatible:
        return "jetson"
    return "raspberry-pi" if "raspberrypi," in compatible else None


def csi_elements(sensor: int, options: CameraOptions) -> list[str]:
    """Return the pipeline of a CSI camera, as arguments of ``gst-launch-1.0``.

    Args:
        sensor: number of the camera, from 0.
        options: its size and rate; 1280x720 at 30 frames per second unless they say otherwise.

    Raises:
        UsageError: an option does not apply, or there is no such number.
        FrameSourceError: this machine is no board with such cameras, or does not list this one.
    """
    if options.fourcc is not None:
        raise UsageError(
            f"csi://{sensor} has no fourcc ({options.fourcc})", expected="width, height and fps; the format is raw"
        )
    board = read_board()
    if board == "jetson":
        return _jetson(sensor, options)
    if board == "raspberry-pi":
        return _raspberry_pi(sensor, options)
    raise FrameSourceError(
        f"csi://{sensor}: this machine is neither a Jetson nor a Raspberry Pi",
        expected="one of these boards; inside a container, with its /proc/device-tree",
        fix="USB cameras are /dev/video*; on another board write its pipeline: gst:libcamerasrc, gst:v4l2src …",
        cause="not_found",
    )


def _jetson(sensor: int, options: CameraOptions) -> list[str]:
    caps = f"video/x-raw(memory:NVMM),format=NV12,{_size_and_rate(options)}"
    return [
        *("nvarguscamerasrc", f"sensor-id={sensor}", "!", caps),
        *("!", "nvvidconv", "!", "video/x-raw,format=I420", *_NEWEST),
    ]


def _raspberry_pi(sensor: int, options: CameraOptions) -> list[str]:
    caps = f"video/x-raw,format=NV12,{_size_and_rate(options)}"
    path = _camera_path(sensor)
    named = [f"camera-name={path}"] if path else []
    return ["libcamerasrc", *named, "!", caps, *_NEWEST]


def _size_and_rate(options: CameraOptions) -> str:
    width, height = (options.width, options.height) if options.width and options.height else DEFAULT_SIZE
    rate = Fraction(options.fps or DEFAULT_FPS).limit_denominator(1001)
    return f"width={width},height={height},framerate={rate.numerator}/{rate.denominator}"


def _camera_path(sensor: int) -> str | None:
    """Return the name that libcamera gives a camera; None for the first where nothing lists them."""
    listed = _list_cameras()
    if listed is None and sensor == 0:
        return None
    if listed is None or sensor not in listed:
        there = ", ".join(f"csi://{index}" for index in sorted(listed or {}))
        raise FrameSourceError(
            f"there is no csi://{sensor}",
            expected=f"one of {there}" if there else "a camera that libcamera finds",
            fix="rpicam-hello --list-cameras lists them (sudo apt-get install rpicam-apps); check the ribbon cable",
            cause="not_found",
        )
    return listed[sensor]


def _list_cameras() -> dict[int, str] | None:
    """Return the names of the cameras by their numbers; None if no program lists them."""
    program = next(filter(None, map(shutil.which, _LISTERS)), None)
    if program is None:
        return None
    try:
        found = subprocess.run(
            [program, "--list-cameras"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_cameras(found.stdout.decode("utf-8", "replace"))


def parse_cameras(text: str) -> dict[int, str]:
    """Read the names of cameras by their numbers from ``rpicam-hello --list-cameras``."""
    return {int(match["index"]): match["path"] for match in _LISTED.finditer(text)}
