"""Cameras, video files and network streams, read with OpenCV; on a Jetson, with the system's own OpenCV."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from vitedge.errors import FrameSourceError, VitedgeError
from vitedge.extras import require
from vitedge.runtime.preprocess.orientation import is_turned, orientation_of_rotation
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.containers import ContainerError, check_container
from vitedge.runtime.sources.ffmpeg import FILE_OPTIONS, STREAM_OPTIONS, ffmpeg_options
from vitedge.runtime.sources.opencv_names import opencv_name
from vitedge.runtime.system.owned import Owned
from vitedge.safety.escape import terminal
from vitedge.safety.files import is_unicode, open_regular
from vitedge.safety.limits import IMAGE_PIXELS, VIDEO_BYTES
from vitedge.safety.redact import redact_address

logger = logging.getLogger("vitedge")

OPEN_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 5.0
CLOSE_TIMEOUT_SECONDS = 10.0
SLOW_CAMERA_FPS = 15.0
LARGEST_CAMERA = 1 << 20  # Linux's limit for the devices of a kind
LARGEST_FPS = 500.0  # a network stream of unknown rate reports the rate of its clock, such as 90000


class Capture(Owned, FrameSource):
    """Frames of a ``cv2.VideoCapture``: a camera, a video file or a network stream.

    Args:
        capture: an open ``cv2.VideoCapture``, which the source owns.
        name: name in messages.
        live: whether it is a camera or a network stream.
        notices: problems that showed when it was opened.
    """

    _refusal: ClassVar[type[VitedgeError]] = FrameSourceError

    def __init__(self, capture: Any, name: str, *, live: bool, notices: tuple[str, ...] = ()) -> None:
        cv2 = _cv2()
        self.name = name
        self.live = live
        fps = _positive(capture.get(cv2.CAP_PROP_FPS))
        self.fps = None if fps is None or fps > LARGEST_FPS else fps
        count = _positive(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = None if live or count is None else int(count)
        self._capture = capture
        self._timestamp_property = cv2.CAP_PROP_POS_MSEC
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # the classifier turns frames, as its preprocessing asks
        self._orientation = orientation_of_rotation(capture.get(cv2.CAP_PROP_ORIENTATION_META))
        self._lock = threading.Lock()
        self._closed = False
        self._undecodable = 0
        self._notices: list[str] = []
        for notice in notices:
            self._notice(notice)
        self._acquired(f"the source {name}")

    @property
    def notices(self) -> tuple[str, ...]:
        """Problems that did not end the stream."""
        undecodable = f"{self.name}: {self._undecodable} frames could not be decoded and were skipped"
        return (*self._notices, undecodable) if self._undecodable else tuple(self._notices)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames until the end of the file.

        Raises:
            FrameSourceError: a live source stopped delivering, no frame can be decoded, or this process was forked
                after the source was opened.
        """
        self._check_process()
        delivered, seconds = 0, 0.0
        while (frame := self._read(delivered)) is not None:
            if self.length is not None:
                seconds = self._position()
            yield frame
            delivered += 1
        if not self._closed:
            self._explain_end(delivered, seconds)

    def close(self) -> None:
        """Free the device after the read in progress; leave it open if that read hangs.

        Raises:
            FrameSourceError: this process was forked after the source was opened.
        """
        self._check_process()
        self._released()
        self._closed = True
        if not self._lock.acquire(timeout=CLOSE_TIMEOUT_SECONDS):
            logger.warning("%s does not answer and stays open until this process ends", terminal(self.name))
            return
        try:
            self._capture.release()
        finally:
            self._lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _read(self, index: int) -> Frame | None:
        self._check_process()
        with self._lock:
            while not self._closed and self._capture.grab():
                captured_at, captured_ns = time.time(), time.monotonic_ns()
                decoded, image = self._capture.retrieve()
                if decoded:
                    _check_pixels(image.shape[1], image.shape[0], self.name)
                    self.oriented += is_turned(self._orientation)
                    return Frame(
                        image,
                        index,
                        captured_at,
                        captured_ns,
                        pts=self._presentation_time(index),
                        orientation=self._orientation,
                    )
                self._undecodable += 1
        return None

    def _presentation_time(self, index: int) -> float | None:
        """Return the seconds of the frame that was just decoded; None for a live source, or a video without times."""
        if self.live:
            return None
        seconds = float(self._capture.get(self._timestamp_property)) / 1000.0
        is_known = seconds > 0.0 or (index == 0 and seconds == 0.0)  # OpenCV says 0 for a frame that has no time
        return seconds if math.isfinite(seconds) and is_known else None

    def _position(self) -> float:
        with self._lock:
            return float(self._capture.get(self._timestamp_property)) / 1000.0 if not self._closed else 0.0

    def _explain_end(self, delivered: int, seconds: float) -> None:
        if self.live:
            raise FrameSourceError(
                f"{self.name} stopped delivering after {delivered} frames",
                expected="a camera or stream that goes on",
                fix="check the cable, the power and the network, then open it again",
            )
        if delivered == 0:
            raise FrameSourceError(
                f"{self.name} holds no frame that can be decoded",
                expected="a whole video",
                fix="copy or record it again; ffmpeg -v error -i FILE -f null - says where it breaks",
            )
        if self.length is not None and self._cut_off(delivered, seconds, self.length):
            self._notice(f"{self.name} is cut off: it ended after {delivered} of about {self.length} frames")

    def _cut_off(self, delivered: int, seconds: float, length: int) -> bool:
        """Whether there are too few frames *and* they end too early: the count is an estimate if the rate varies."""
        remaining = (length / self.fps if self.fps else 0.0) - seconds
        interval = seconds / max(1, delivered - 1)
        return length - delivered > 1 and remaining > 2 * interval

    def _notice(self, text: str) -> None:
        self._notices.append(text)
        logger.warning("%s", terminal(text))


def open_video(path: Path) -> Capture:
    """Open a video file. Other files that it names, as a playlist does, are not opened.

    Raises:
        FrameSourceError: OpenCV cannot read the file, it is not a regular file, it does not begin like a video, or it
            exceeds a limit of ``vitedge.safety.limits``.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = _cv2()
    size = _check_file(path)
    with ffmpeg_options(FILE_OPTIONS), opencv_name(path) as name:
        capture = _open(cv2, name)
    if not capture.isOpened():
        raise _no_video(path, size, "it finds nothing that it can decode")
    return Capture(_of_bounded_size(capture, str(path)), str(path), live=False)


def open_stream(address: str) -> Capture:
    """Open a network stream. Opening and every read have a timeout, and no playlist can open a file of this machine.

    Raises:
        FrameSourceError: the server does not answer in time, or sends nothing that OpenCV can decode.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = _cv2()
    name = redact_address(address)
    limits = (
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_TIMEOUT_SECONDS * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT_SECONDS * 1000)),
    )
    with ffmpeg_options(STREAM_OPTIONS):
        capture = _open(cv2, address, limits=limits)
    if not capture.isOpened():
        raise FrameSourceError(
            f"{name} does not answer with a video; it was given {OPEN_TIMEOUT_SECONDS:g} s",
            expected="the address of a video stream that this machine reaches",
            fix="check the address, user and password, for example with: ffplay ADDRESS",
        )
    _of_bounded_size(capture, name)
    finite = _positive(capture.get(cv2.CAP_PROP_FRAME_COUNT)) is not None
    return Capture(capture, name, live=not finite)


def _open(cv2: Any, name: str, *, limits: Sequence[int] = ()) -> Any:
    """Open a capture with FFmpeg or, as on a Jetson, with GStreamer; OpenCV's other backends take names as patterns.

    Args:
        cv2: the OpenCV module.
        name: path or address.
        limits: properties for FFmpeg, each followed by its value.
    """
    _check_name(name)
    has_backend = cv2.videoio_registry.hasBackend
    if has_backend(cv2.CAP_FFMPEG):
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(name, cv2.CAP_GSTREAMER if has_backend(cv2.CAP_GSTREAMER) else cv2.CAP_ANY)


def _check_name(name: str) -> None:
    if not is_unicode(name):
        raise FrameSourceError(
            f"OpenCV cannot open {redact_address(name)}: its name is not UTF-8",
            expected="a name in UTF-8",
            fix="rename it",
        )


def _check_file(path: Path) -> int:
    """Refuse a file that is not a video before OpenCV sees it; return its size in bytes."""
    size = 0
    try:
        with open_regular(path, limit=VIDEO_BYTES) as stream:
            size = os.fstat(stream.fileno()).st_size
            check_container(stream)
    except ContainerError as error:
        raise _no_video(path, size, str(error)) from error
    except (OSError, ValueError) as error:
        raise FrameSourceError(f"{path} cannot be read: {error}", expected="a video file") from error
    return size


def _no_video(path: Path, size: int, why: str) -> FrameSourceError:
    return FrameSourceError(
        f"{path} ({size} bytes) is not a video that OpenCV can read: {why}",
        expected="a whole video file, such as MP4, MOV, MKV, WebM, AVI or MPEG; or an image with one of the usual "
        "suffixes",
        fix="if it is a video, it is truncated (an MP4 has its index at the end) or uses an unknown codec: "
        "copy it again, or convert it with ffmpeg",
    )


def _of_bounded_size(capture: Any, name: str) -> Any:
    cv2 = _cv2()
    try:
        _check_pixels(capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT), name)
    except FrameSourceError:
        capture.release()
        raise
    return capture


def _check_pixels(width: float, height: float, name: str) -> None:
    if width * height > IMAGE_PIXELS:
        raise FrameSourceError(
            f"{name} has frames of {width:g}x{height:g} pixels", expected=f"at most {IMAGE_PIXELS} pixels"
        )


def open_camera(device: int | Path) -> Capture:
    """Open a camera, request MJPG and a queue of one frame, and read back which format the camera chose.

    Most USB cameras also offer uncompressed YUYV at a few frames per second, which OpenCV would choose.

    Raises:
        FrameSourceError: there is no such camera, or it is in use.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = _cv2()
    name = f"camera {device}"
    if isinstance(device, int) and not 0 <= device <= LARGEST_CAMERA:
        raise _no_camera(device, name)
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
    _check_name(str(device))
    capture = cv2.VideoCapture(device if isinstance(device, int) else str(device), backend)
    if not capture.isOpened():
        raise _no_camera(device, name)
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("ascii", "replace")
    fps = _positive(capture.get(cv2.CAP_PROP_FPS))
    notices: tuple[str, ...] = ()
    if code.strip() in ("YUYV", "YUY2") and fps is not None and fps < SLOW_CAMERA_FPS:
        notices = (f"{name} sends uncompressed {code} at {fps:g} frames per second: use a USB 3 port or fewer pixels",)
    return Capture(capture, name, live=True, notices=notices)


def _no_camera(device: int | Path, name: str) -> FrameSourceError:
    path = Path(f"/dev/video{device}") if isinstance(device, int) else device
    if path.exists():
        return FrameSourceError(
            f"{name} ({path}) does not open",
            expected="a camera that no other program holds, and that this user may read",
            fix=f"fuser {path} names its user; sudo usermod -aG video $USER gives the right to read it",
        )
    found = ", ".join(sorted(str(each) for each in Path("/dev").glob("video*")))
    return FrameSourceError(
        f"there is no {name}",
        expected=f"a camera, one of {found}" if found else "an attached camera; there is no /dev/video*",
        fix="attach the camera, or give a file, a folder or an address",
    )


def _cv2() -> Any:
    return require("cv2", extra="camera", purpose="reading cameras and videos")


def _positive(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None
