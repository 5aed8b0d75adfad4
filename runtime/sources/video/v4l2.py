"""Cameras of Linux, through PyAV's V4L2: MJPG first, then what the camera has."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from vitedge.counts import counted
from vitedge.errors import Cause, FrameSourceError, UsageError, did_you_mean
from vitedge.extras import require
from vitedge.runtime.sources.options import CameraOptions
from vitedge.runtime.sources.video.causes import cause_of, errors_of_pyav, fail, reason_of
from vitedge.runtime.sources.video.clock import DeviceClock
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.packets import ContainerPackets
from vitedge.runtime.system.cameras import (
    is_multiplanar,
    lasting_path,
    list_cameras,
    list_formats,
    list_holders,
    permission_fix,
)

LARGEST_CAMERA = 1 << 20
"""Linux's limit for the devices of a kind."""
SLOW_CAMERA_FPS = 15.0
LOOK_SECONDS = 0.002
"""How often a camera is asked for a frame that is due. Its driver knows when it was captured, so its age stays true."""
NOT_DUE = 0.7
"""No frame is due within this part of an interval after the one before it."""
LONGEST_WAIT = 0.5
FORMATS = {
    "MJPG": "mjpeg",
    "JPEG": "mjpeg",
    "H264": "h264",
    "YUYV": "yuyv422",
    "YUY2": "yuyv422",
    "UYVY": "uyvy422",
    "NV12": "nv12",
    "YU12": "yuv420p",
    "I420": "yuv420p",
    "422P": "yuv422p",
    "GREY": "gray",
    "RGB3": "rgb24",
    "BGR3": "bgr24",
}
"""Pixel formats of V4L2, with the names that FFmpeg gives them; the first of a name is how it is shown."""
_NOBODY_BLOCKS = "+4"
"""FFmpeg's AVFMT_FLAG_NONBLOCK, which has no name among its options: a camera without a signal blocks for ever."""


class CameraFrames(Decoded):
    """Frames of a V4L2 camera, which the source owns.

    Args:
        container: the camera.
        device: its path.
        name: name in messages.
        options: what was asked of it.
        notices: what it did not agree to.
    """

    def __init__(
        self, container: Any, device: Path, name: str, options: CameraOptions, notices: tuple[str, ...]
    ) -> None:
        self._stopped = threading.Event()
        self.lasting = lasting_path(device)
        self._camera = _CameraContainer(container, self._stopped, options.read_timeout)
        super().__init__(
            ContainerPackets(self._camera, name, live=True),
            options=options,
            clock=DeviceClock(),
            notices=notices,
            failed=lambda error, delivered: _reading_error(error, device, name, delivered, options.read_timeout),
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """Say which settings the camera did not accept, and how many frames were damaged."""
        damaged = self._camera.damaged
        frames = counted(
            damaged, "frame came damaged from the driver and was", "frames came damaged from the driver and were"
        )
        said = f"{self.name}: {frames} skipped"
        return (*super().notices, said) if damaged else super().notices

    def close(self) -> None:
        """Free the camera."""
        self._stopped.set()
        super().close()


class _CameraContainer:
    """A PyAV container that does not block; its packets are waited for, so that they can be given up.

    Args:
        container: the camera.
        stopped: ends the wait.
        timeout: seconds to wait for a packet.

    Attributes:
        damaged: number of frames that the driver marked as damaged, which have no bytes.
    """

    def __init__(self, container: Any, stopped: threading.Event, timeout: float) -> None:
        self.damaged = 0
        self._container = container
        self._stopped = stopped
        self._timeout = timeout
        rate = container.streams.video[0].average_rate if container.streams.video else None
        self._not_due = min(NOT_DUE / float(rate), LONGEST_WAIT) if rate else 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, *streams: Any) -> Iterator[Any]:
        """Yield the packets until the camera is closed.

        Raises:
            TimeoutError: none came in time.
        """
        last = time.monotonic()
        while not self._stopped.is_set():
            try:
                packet = self._next(streams)
            except BlockingIOError:
                self._wait(time.monotonic() - last)
                continue
            if packet is None:
                return
            last = time.monotonic()
            if packet.size or packet.pts is None:
                yield packet
            else:
                self.damaged += 1

    def _next(self, streams: tuple[Any, ...]) -> Any:
        """Return a copy of the next packet; None at the end.

        The bytes of FFmpeg's packets lie in memory of the driver, and packets refer to the open camera. A packet that
        is held when the camera is closed would crash the program. PyAV's iterator is closed too, because it keeps one.
        """
        with closing(self._container.demux(*streams)) as packets:
            return _copy_of(next(packets, None))

    def _wait(self, since_last: float) -> None:
        if since_last > self._timeout:
            raise TimeoutError(errno.ETIMEDOUT, "no frame in time")
        self._stopped.wait(max(LOOK_SECONDS, self._not_due - since_last))


def _copy_of(packet: Any) -> Any:
    if packet is None or not packet.size:
        return packet
    copy = type(packet)(bytes(packet))
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts = packet.pts, packet.dts
    copy.is_keyframe, copy.is_corrupt = packet.is_keyframe, packet.is_corrupt
    return copy


def open_camera(device: int | Path, options: CameraOptions | None = None) -> CameraFrames:
    """Open a camera, and note in ``notices`` where it did not agree to what was asked.

    It is asked for MJPG, unless the options say otherwise, because most USB cameras also offer uncompressed YUYV at a
    few frames per second.

    Args:
        device: the number of the camera, or its path.
        options: what to ask of it.

    Raises:
        FrameSourceError: there is no such camera, it is in use, this user may not open it, or it sends no frame.
        UsageError: the pixel format has no name here.
        MissingExtraError: PyAV is not installed.
    """
    options = options or CameraOptions()
    _check_format(options.fourcc)
    av = require("av", extra="camera", purpose="reading cameras")
    name = f"camera {device}"
    if sys.platform != "linux":
        raise FrameSourceError(
            f"{name}: cameras are read through V4L2, which only Linux has",
            expected="Linux; or frames of the camera's own library",
            fix="yield them from a generator: vitedge.FrameIterable(frames, live=True)",
        )
    path = Path(f"/dev/video{device}") if isinstance(device, int) else device
    if isinstance(device, int) and not 0 <= device <= LARGEST_CAMERA:
        raise _missing(path, name)
    container = _negotiate(av, path, name, options)
    try:
        _check_depth(container, name)
        notices = _differences(container, path, name, options)
        return CameraFrames(container, path, name, options, notices)
    except BaseException:
        container.close()
        raise


def _check_format(fourcc: str | None) -> None:
    if fourcc is not None and fourcc.upper() not in FORMATS:
        raise UsageError(
            f"the pixel format {fourcc!r} is not known",
            expected=f"one of {', '.join(FORMATS)}",
            fix=did_you_mean(fourcc.upper(), FORMATS),
        )


def _negotiate(av: Any, path: Path, name: str, options: CameraOptions) -> Any:
    """Open a camera with the first requests that it takes; FFmpeg refuses a format or rate that it does not have."""
    container, error = None, None
    for requests in _requests(options):
        container, error = _opened(av, path, options, requests)
        if error is None or getattr(error, "errno", None) != errno.EINVAL:
            break
    if error is not None:
        fail(_opening_error(error, path, name, options))
    return container


def _opened(av: Any, path: Path, options: CameraOptions, requests: dict[str, str]) -> tuple[Any, BaseException | None]:
    """Return the open camera, or the reason why there is none."""
    try:
        container = av.open(
            str(path),
            format="v4l2",
            container_options=requests,  # streams would take a size for their own
            timeout=(options.open_timeout, options.read_timeout),
            metadata_errors="replace",
        )
    except errors_of_pyav() as error:
        return None, error
    return container, None


def _requests(options: CameraOptions) -> Iterator[dict[str, str]]:
    """Yield what to ask of a camera: first all that is wanted, at last nothing but the size."""
    common = {"timestamps": "default", "fflags": _NOBODY_BLOCKS}
    if options.width is not None:
        common["video_size"] = f"{options.width}x{options.height}"
    wanted = {"input_format": FORMATS[(options.fourcc or "MJPG").upper()]}
    rate = {"framerate": f"{options.fps:g}"} if options.fps is not None else {}
    yield common | wanted | rate
    yield common | rate
    if rate:
        yield common | wanted
        yield common


def _check_depth(container: Any, name: str) -> None:
    """Refuse grey of more than 8 bits, as thermal and depth cameras send: the upper 8 bits show next to nothing."""
    form = next((stream.codec_context.pix_fmt or "" for stream in container.streams.video), "")
    if form.startswith("gray1"):
        raise FrameSourceError(
            f"{name} sends grey values of more than 8 bits ({form})",
            expected="a format of 8 bits, because nobody knows which range of values the model should see",
            fix="scale the values yourself, and yield arrays: vitedge.FrameIterable(frames, live=True)",
            cause="codec",
        )


def _differences(container: Any, path: Path, name: str, options: CameraOptions) -> tuple[str, ...]:
    """Say what the camera agreed to instead of what was asked."""
    stream = next(iter(container.streams.video), None)
    if stream is None:
        return ()
    agreed = _format_of(stream)
    fps = float(stream.average_rate) if stream.average_rate else None
    width, height = stream.codec_context.width, stream.codec_context.height
    found: list[str] = []
    if options.fourcc is not None and FORMATS[options.fourcc.upper()] != FORMATS.get(agreed, agreed):
        offered = ", ".join(list_formats(path))
        found.append(f"sends {agreed}, not {options.fourcc}{f'; it offers {offered}' if offered else ''}")
    if options.width is not None and (width, height) != (options.width, options.height):
        found.append(f"sends {width}x{height} pixels, not {options.width}x{options.height}")
    if options.fps is not None and fps is not None and abs(fps - options.fps) > 0.01 * options.fps:
        found.append(f"sends {fps:g} frames per second, not {options.fps:g}")
    if options.fps is None and fps is not None and fps < SLOW_CAMERA_FPS and agreed not in ("MJPG", "H264"):
        found.append(f"sends uncompressed {agreed} at {fps:g} frames per second: use a USB 3 port or fewer pixels")
    return tuple(f"{name} {each}" for each in found)


def _format_of(stream: Any) -> str:
    """Return the pixel format of a stream as V4L2 names it, or FFmpeg's name for it."""
    codec = stream.codec_context
    name = (codec.pix_fmt or "?") if codec.name == "rawvideo" else codec.name
    return next((fourcc for fourcc, known in FORMATS.items() if known == name), str(name))


def _opening_error(error: BaseException, path: Path, name: str, options: CameraOptions) -> FrameSourceError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return _missing(path, name)
    if isinstance(error, OSError) and number in (errno.EACCES, errno.EPERM):
        return _error(
            name, "may not be opened by this user", "the right to read it", permission_fix(path, error), "permission"
        )
    if number == errno.EBUSY:
        return _busy(path, name)
    if number == errno.ENOSPC:
        return _error(
            name,
            "does not start: its USB bus has no bandwidth left",
            "one camera a USB controller, or less data from each",
            "ask for MJPG, fewer pixels or a lower fps; lsusb -t shows which devices share a controller",
            "device_busy",
        )
    if number in (errno.ENODEV, errno.ENXIO, errno.ENOTTY, errno.ENOSYS) or is_multiplanar(path):
        return _no_capture(path, name)
    if number == errno.EINVAL:
        offered = ", ".join(list_formats(path)) or "formats that it does not name"
        return _error(
            name,
            f"offers no pixel format that FFmpeg reads: {offered}",
            f"one of {', '.join(FORMATS)}",
            f"a pipeline may read it: gst:v4l2src device={path} ! videoconvert",
            "codec",
        )
    cause = cause_of(error)
    if cause == "timeout":
        return _error(
            name,
            f"sent no frame within {options.open_timeout:g} s",
            "a camera with a signal",
            f"v4l2-ctl -d {path} --stream-mmap --stream-count=10 tries it by itself",
            "timeout",
        )
    return _error(name, f"does not open: {reason_of(error)}", "a working camera", "sudo dmesg | tail says more", cause)


def _reading_error(error: BaseException, path: Path, name: str, delivered: int, timeout: float) -> FrameSourceError:
    number = getattr(error, "errno", None)
    after = f"after {counted(delivered, 'frame')}"
    if not path.exists() or number in (errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN):
        return _error(
            name,
            f"was unplugged {after}",
            "a camera that stays attached",
            "check the cable and the power; sudo dmesg | tail says what happened",
            "unplugged",
        )
    if cause_of(error) == "timeout":
        return _error(
            name,
            f"sent no frame for {timeout:g} s, {after}",
            "a camera that goes on",
            f"v4l2-ctl -d {path} --stream-mmap --stream-count=10 tries it by itself",
            "timeout",
        )
    return _error(
        name,
        f"failed {after}: {reason_of(error)}",
        "a camera that goes on",
        "check the cable and the power; sudo dmesg | tail says what happened",
        None,
    )


def _busy(path: Path, name: str) -> FrameSourceError:
    holders = ", ".join(f"{each.name} (process {each.pid})" for each in list_holders(path))
    return _error(
        name,
        f"is in use by {holders}" if holders else "is in use by a process that this user does not see",
        "a camera that no other program reads",
        f"end that program; sudo fuser -v {path} names it",
        "device_busy",
    )


def _no_capture(path: Path, name: str) -> FrameSourceError:
    if is_multiplanar(path):
        return _error(
            name,
            "gives its planes apart (V4L2 multi-planar), which FFmpeg does not read",
            "a camera with plain formats, as USB cameras have",
            f"read it through GStreamer: gst:v4l2src device={path} ! videoconvert",
            "codec",
        )
    return _error(
        name,
        "captures no video: it is no V4L2 device, or the metadata or output node of one",
        _attached(),
        "v4l2-ctl --list-devices lists the nodes of each camera; the first usually captures",
        "no_video",
    )


def _missing(path: Path, name: str) -> FrameSourceError:
    return FrameSourceError(
        f"there is no {name}" if str(path) in name else f"there is no {name} ({path})",
        expected=_attached(),
        fix="attach the camera, or give a file, a folder or an address; vitedge doctor lists the cameras",
        cause="not_found",
    )


def _attached() -> str:
    found = [f"{each.path} ({each.name or 'no name'})" for each in list_cameras() if each.usable]
    return f"one of {', '.join(found)}" if found else "an attached camera; there is none"


def _error(name: str, what: str, expected: str, fix: str, cause: Cause | None) -> FrameSourceError:
    return FrameSourceError(f"{name} {what}", expected=expected, fix=fix, cause=cause)
