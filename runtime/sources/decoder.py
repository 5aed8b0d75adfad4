"""``Decoded``: the frames of an open PyAV container: of a camera, a network stream or a video file.

A live source decodes in one thread: several would each hold a frame back. Its frames keep the decoder's planes, without
a copy. A file decodes in a thread a core, and its frames are BGR, converted by FFmpeg as OpenCV converts them.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import numpy as np

from vitedge.errors import FrameSourceError, VitedgeError
from vitedge.prediction import Image
from vitedge.runtime.preprocess.orientation import AS_STORED, is_turned, orientation_of_matrix
from vitedge.runtime.preprocess.planes import Matrix, Plane, YuvPlanes
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.causes import cause_of, fail, reason_of, stopped
from vitedge.runtime.sources.clock import ArrivalClock, Capture, Clock
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.system.owned import Owned
from vitedge.safety.escape import terminal
from vitedge.safety.limits import IMAGE_PIXELS

logger = logging.getLogger("vitedge")

LARGEST_FPS = 500.0
"""A stream of unknown rate reports the rate of its clock, such as 90000."""
SHORTEST_CUT_SECONDS = 0.2
LOW_DELAY = 1 << 19
"""FFmpeg's flag for a decoder that gives each frame as soon as it can."""
UNTIMED = frozenset({"h264", "hevc", "m4v", "mjpeg", "mpegvideo", "mpjpeg", "jpeg_pipe", "png_pipe"})
"""Formats without timestamps, for which FFmpeg makes them up, at 25 frames per second."""

_CHROMA = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (1, 2),
    "yuvj422p": (1, 2),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
    "yuv440p": (2, 1),
    "yuvj440p": (2, 1),
    "yuv411p": (1, 4),
    "yuvj411p": (1, 4),
    "yuv410p": (4, 4),
    "nv12": (2, 2),
    "nv21": (2, 2),
}
"""Pixel formats of 8-bit planes, with the rows and columns that a chroma value colours."""
_INTERLEAVED = {"nv12": (0, 1), "nv21": (1, 0)}
_MATRICES: dict[int, Matrix] = {1: "bt709", 9: "bt2020", 10: "bt2020"}
"""FFmpeg's numbers of matrices; the others are near BT.601, which is also meant where none is stated."""
_SWS_MATRIX = {"bt601": 5, "bt709": 1, "bt2020": 9}
_FULL_RANGE = 2
_DISPLAY_MATRIX = 36
T = TypeVar("T")


class Converter:
    """FFmpeg's conversion to BGR, for one source; any thread may use it."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._lock = threading.Lock()

    def bgr(self, frame: Any) -> Image:
        """Return a new ``H×W×3`` uint8 array of a ``VideoFrame``, by the matrix and range that it states."""
        states = {} if frame.format.is_rgb else _stated_colours(frame)
        with self._lock:
            converted = self._reformatter.reformat(frame, format="bgr24", **states)
        plane = converted.planes[0]
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(frame.height, plane.line_size)
        return np.ascontiguousarray(rows[:, : 3 * frame.width]).reshape(frame.height, frame.width, 3)


def _stated_colours(frame: Any) -> dict[str, int]:
    return {
        "src_colorspace": _SWS_MATRIX[_MATRICES.get(frame.colorspace, "bt601")],
        "src_color_range": _FULL_RANGE if _is_full_range(frame) else 1,
    }


def _is_full_range(frame: Any) -> bool:
    return bool(frame.color_range == _FULL_RANGE or frame.format.name.startswith(("yuvj", "gray")))


@dataclass(frozen=True, eq=False)
class DecodedPlanes(YuvPlanes):
    """The planes of a decoder's frame, which they keep alive.

    Attributes:
        frame: PyAV's ``VideoFrame``.
        converter: converts it.
    """

    frame: Any = field(default=None, repr=False)
    converter: Converter | None = field(default=None, repr=False)

    def bgr(self) -> Image:
        """Return the picture as a new ``H×W×3`` uint8 array, as FFmpeg converts it."""
        assert self.converter is not None
        return self.converter.bgr(self.frame)


def planes_of(frame: Any, converter: Converter) -> DecodedPlanes | None:
    """Return views of the planes of a ``VideoFrame``; None for another pixel format than YUV of 8 bits."""
    name = frame.format.name
    chroma = _CHROMA.get(name)
    if chroma is None:
        return None
    height, width = frame.height, frame.width
    rows, columns = -(-height // chroma[0]), -(-width // chroma[1])
    luma = _view(frame.planes[0], height, width)
    if name in _INTERLEAVED:
        pairs = _view(frame.planes[1], rows, 2 * columns)
        blue, red = (pairs[:, at::2] for at in _INTERLEAVED[name])
    else:
        blue, red = (_view(frame.planes[at], rows, columns) for at in (1, 2))
    matrix = _MATRICES.get(frame.colorspace, "bt601")
    return DecodedPlanes(luma, blue, red, matrix, _is_full_range(frame), frame, converter)


def _view(plane: Any, rows: int, columns: int) -> Plane:
    """Return a read-only view of ``rows×columns`` bytes of a plane, whose lines may be longer, or upside down."""
    line = plane.line_size
    values = np.frombuffer(plane, dtype=np.uint8).reshape(-1, abs(line))[:rows, :columns]
    values.flags.writeable = False
    return values if line > 0 else values[::-1]


class Decoded(Owned, FrameSource):
    """Frames of an open PyAV container, which the source owns.

    Args:
        container: an ``av.container.InputContainer``.
        name: name in messages, without secrets.
        live: whether it is a camera or a network stream.
        options: timeouts, threads, and whether frames keep planes.
        clock: tells when the frames of a live source were captured; None for the time of reading.
        notices: problems that showed when it was opened.
        failed: describes an error of PyAV while the source is read; gets the error and the number of frames before it.
    """

    _refusal: ClassVar[type[VitedgeError]] = FrameSourceError

    def __init__(
        self,
        container: Any,
        name: str,
        *,
        live: bool,
        options: SourceOptions | None = None,
        clock: Clock | None = None,
        notices: tuple[str, ...] = (),
        failed: Callable[[BaseException, int], FrameSourceError] | None = None,
    ) -> None:
        self.name = name
        self.live = live
        self.options = self._options = options or SourceOptions()
        self._clock = clock or ArrivalClock()
        self._container = container
        self._failed = failed or self._broken
        self._busy = threading.Lock()
        self._closed = False
        self._notices: list[str] = []
        self._damaged = self._undecodable = 0
        try:
            self._stream = _video_of(container, name)
            self._prepare()
        except BaseException:
            container.close()
            raise
        for notice in notices:
            self._notice(notice)
        self._acquired(f"the source {name}")

    @property
    def notices(self) -> tuple[str, ...]:
        """Problems that did not end the stream."""
        counted = [
            f"{self.name}: {count} frames {what}"
            for count, what in (
                (self._undecodable, "could not be decoded and were skipped"),
                (self._damaged, "are damaged"),
            )
            if count
        ]
        return (*self._notices, *counted)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames until the end of the file; those of a live source until ``close``.

        Raises:
            FrameSourceError: a live source stopped delivering, no frame can be decoded, frames become too large, or
                this process was forked after the source was opened.
        """
        self._check_process()
        progress = _Progress()
        error: FrameSourceError | None = None
        try:
            for packet, read in self._packets(progress):
                for picture in self._pictures(packet):
                    yield self._frame(picture, read, progress)
                    progress.delivered += 1
        except _Ended as ended:
            error = ended.error
        if error is not None:
            fail(error)
        if not self._closed:
            self._explain_end(progress)

    def close(self) -> None:
        """Free the device or file; a thread that reads it at this moment frees it when its read ends.

        Raises:
            FrameSourceError: this process was forked after the source was opened.
        """
        self._check_process()
        self._released()
        self._closed = True
        self._free_if_closed()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _prepare(self) -> None:
        container, stream, context = self._container, self._stream, self._stream.codec_context
        _check_pixels(context.width, context.height, self.name)
        self._is_timed = container.format.name not in UNTIMED
        self.fps = _rate(stream, live=self.live) if self._is_timed else None
        self.length = None if self.live else _length(container, stream, self.fps)
        self._stated = _Stated(stream.frames, (container.duration or 0) / 1e6, (container.start_time or 0) / 1e6)
        self._track = stream.index
        threads = self._options.decode_threads
        if self.live:
            context.thread_type, context.thread_count = ("SLICE", threads) if threads else ("NONE", 1)
            context.flags |= LOW_DELAY
        else:
            context.thread_type, context.thread_count = "AUTO", threads or 0
        context.options = {**context.options, "max_pixels": str(IMAGE_PIXELS)}
        self._planes = self.live if self._options.planes is None else self._options.planes
        self._converter = Converter()
        self._asks_sender = self.live and container.format.name == "rtsp"
        self._first_seconds: float | None = None
        self._orientation, self._rotation = AS_STORED, None

    def _step(self, call: Callable[[], T | None]) -> T | None:
        """Call PyAV, unless the source is closed. Nobody frees the container meanwhile."""
        self._check_process()
        try:
            with self._busy:
                result = None if self._closed else call()
        finally:
            self._free_if_closed()
        return None if self._closed else result

    def _free_if_closed(self) -> None:
        if self._closed and self._busy.acquire(blocking=False):
            try:
                container, self._container, self._stream = self._container, None, None
                if container is not None:
                    container.close()
            finally:
                self._busy.release()

    def _packets(self, progress: _Progress) -> Iterator[tuple[Any, int]]:
        """Yield the packets of the video track, each with the time at which it was read."""
        packets = self._step(lambda: self._container.demux())
        waited = 0
        last = time.monotonic_ns()
        while packets is not None:
            began = time.monotonic_ns()
            packet = self._read(packets, progress)
            if packet is None:
                return
            now = time.monotonic_ns()
            waited += now - began
            progress.note_end(packet)
            if packet.stream_index == self._track:
                self._arrived(packet, now, waited)
                progress.packets += packet.size > 0
                waited, last = 0, now
                yield packet, now
            elif self.live and now - last > self._options.read_timeout * 1e9:
                raise _Ended(stopped(self.name, "timeout", progress.delivered, seconds=self._options.read_timeout))

    def _read(self, packets: Iterator[Any], progress: _Progress) -> Any:
        try:
            return self._step(lambda: self._next(packets))
        except errors_of_pyav() as error:
            if not self.live and cause_of(error) == "no_video":
                progress.broken = reason_of(error)
                return None
            failure = self._failed(error, progress.delivered)
        raise _Ended(failure)

    def _next(self, packets: Iterator[Any]) -> Any:
        packet = next(packets, None)
        if self._asks_sender and packet is not None:
            self._ask_sender()
        return packet

    def _ask_sender(self) -> None:
        """Tell the clock when the stream began by the sender's clock, once FFmpeg knows it from a report of RTCP."""
        began = getattr(self._container, "start_time_realtime", None)
        if began:
            self._asks_sender = False
            self._clock.sender_says(began * 1000 - (time.time_ns() - time.monotonic_ns()))

    def _arrived(self, packet: Any, now: int, waited: int) -> None:
        if self.live and packet.size:
            self._clock.arrived(_nanoseconds(packet.pts, packet.time_base), now, waited)

    def _pictures(self, packet: Any) -> list[Any]:
        """Decode a packet; one that cannot be decoded is counted."""
        failure = None
        try:
            pictures = self._step(packet.decode)
        except errors_of_pyav() as error:
            if cause_of(error) == "codec":
                failure = self._failed(error, 0)
            self._undecodable += 1
            pictures = None
        if failure is not None:
            raise _Ended(failure)
        return pictures or []

    def _frame(self, picture: Any, read: int, progress: _Progress) -> Frame:
        if picture.width * picture.height > IMAGE_PIXELS:
            raise _Ended(_too_large(picture.width, picture.height, self.name))
        capture, backlog = Capture(read, "arrival"), False
        if self.live:
            capture, backlog = (
                self._clock.captured(_nanoseconds(picture.pts, picture.time_base), read),
                self._clock.backlog,
            )
        now, corrupt = time.monotonic_ns(), bool(picture.is_corrupt)
        self._damaged += corrupt
        self._turn(picture)
        self.oriented += is_turned(self._orientation)
        planes = planes_of(picture, self._converter) if self._planes else None
        return Frame(
            self._converter.bgr(picture) if planes is None else planes,
            progress.delivered,
            time.time() - (now - capture.at_ns) / 1e9,
            capture.at_ns,
            pts=self._presentation_time(picture),
            orientation=self._orientation,
            age_basis=capture.basis,
            corrupt=corrupt,
            backlog=backlog,
        )

    def _presentation_time(self, picture: Any) -> float | None:
        """Return the seconds since the first frame; None where the format has no times."""
        seconds = picture.time if self._is_timed else None
        if seconds is None:
            return None
        if self._first_seconds is None:
            self._first_seconds = seconds
        return float(seconds - self._first_seconds)

    def _turn(self, picture: Any) -> None:
        """Read how the video is shown, when that changes."""
        if picture.rotation != self._rotation:
            self._rotation = picture.rotation
            self._orientation = _orientation_of(picture)

    def _explain_end(self, progress: _Progress) -> None:
        if self.live:
            fail(stopped(self.name, "eof", progress.delivered, seconds=self._options.read_timeout))
        if progress.delivered == 0:
            raise FrameSourceError(
                f"{self.name} holds no frame that can be decoded",
                expected="a whole video",
                fix="copy or record it again; ffmpeg -v error -i FILE -f null - says where it breaks",
                cause="no_video",
            )
        if self._is_cut_off(progress):
            about = f" of about {self.length}" if self.length else ""
            self._notice(f"{self.name} is cut off: it ended after {progress.delivered}{about} frames")
        elif progress.broken:
            self._notice(f"{self.name} is damaged: reading ended after {progress.delivered} frames: {progress.broken}")
        for notice in self.notices[len(self._notices) :]:
            logger.warning("%s", terminal(notice))

    def _is_cut_off(self, progress: _Progress) -> bool:
        """Whether there are too few frames *and* every track ends too early.

        An audio track that is longer than the video does not make it cut off, and nor does a frame rate that varies.
        """
        stated = self._stated
        if not stated.seconds or (stated.frames and stated.frames - progress.packets <= 1):
            return False
        ended = progress.end - stated.start
        interval = ended / max(1, progress.packets - 1)
        return stated.seconds - ended > max(2 * interval, SHORTEST_CUT_SECONDS)

    def _broken(self, error: BaseException, delivered: int) -> FrameSourceError:
        return FrameSourceError(
            f"{self.name} cannot be read after {delivered} frames: {reason_of(error)}",
            expected="a whole video" if not self.live else "a camera that goes on",
            cause=cause_of(error),
        )

    def _notice(self, text: str) -> None:
        self._notices.append(text)
        logger.warning("%s", terminal(text))


@dataclass(frozen=True)
class _Stated:
    """What a file says about itself.

    Attributes:
        frames: number of frames; 0 if it does not say.
        seconds: how long it is; 0 if it does not say.
        start: timestamp of its beginning, in seconds.
    """

    frames: int
    seconds: float
    start: float


@dataclass
class _Progress:
    """What was read so far.

    Attributes:
        delivered: frames.
        packets: packets of the video track.
        end: greatest time at which a packet of any track ends, in seconds.
        broken: why reading ended, if it did not end with the file.
    """

    delivered: int = 0
    packets: int = 0
    end: float = 0.0
    broken: str = ""

    def note_end(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base:
            self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))


class _Ended(Exception):  # noqa: N818 - it carries an error, and is none
    """Reading ended with an error, which is raised where none of FFmpeg's is its context."""

    def __init__(self, error: FrameSourceError) -> None:
        self.error = error


def _nanoseconds(pts: int | None, time_base: Fraction | None) -> int | None:
    return None if pts is None or not time_base else pts * 1_000_000_000 * time_base.numerator // time_base.denominator


def _video_of(container: Any, name: str) -> Any:
    """Return the video track of a container.

    Raises:
        FrameSourceError: it has none, or no decoder for it.
    """
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [each for each in container.streams.video if not each.disposition & pictures]
    if not videos:
        others = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
        raise FrameSourceError(
            f"{name} has no video track; it holds {others}",
            expected="a video",
            fix="check the address: some cameras send sound or text at one of their own; ffprobe lists the tracks",
            cause="no_video",
        )
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        raise _no_decoder(container, stream, name)
    return stream


def _no_decoder(container: Any, stream: Any, name: str) -> FrameSourceError:
    codec = _codec_name(container, stream)
    return FrameSourceError(
        f"{name} holds {codec} video, and {codec} is not in this build of FFmpeg",
        expected="H.264, H.265, VP9, AV1, MJPEG or another codec of PyAV's FFmpeg; python -m av --codecs lists them",
        fix="convert it with a program that knows it, or choose another codec in the camera's settings",
        cause="codec",
    )


def _codec_name(container: Any, stream: Any) -> str:
    """Return the name of a codec that has no decoder, or the four characters by which the file calls it."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=False):
            described = container.dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: Video: (\w+)(?: \([^/)]*\))*(?: \((\S+) / 0x)?", described)
    if found is None:
        return "unknown"
    return found[1].upper() if found[1] not in ("none", "unknown") else found[2] or "unknown"


def errors_of_pyav() -> tuple[type[BaseException], ...]:
    """Return the exceptions by which PyAV reports errors of FFmpeg and of its own."""
    import av

    return (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, LookupError)


def _rate(stream: Any, *, live: bool) -> float | None:
    """Return the frames per second that a track states; None if it states none that can be.

    A live stream is opened before FFmpeg could count its frames, and its codec knows best.
    """
    stated = (stream.average_rate, stream.guessed_rate)
    rates = (stream.codec_context.framerate, *stated) if live else stated
    return next((float(rate) for rate in rates if rate and 0 < rate <= LARGEST_FPS), None)


def _length(container: Any, stream: Any, fps: float | None) -> int | None:
    if stream.frames:
        return int(stream.frames)
    return round(container.duration / 1e6 * fps) or None if container.duration and fps else None


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > IMAGE_PIXELS:
        raise _too_large(width, height, name)


def _too_large(width: int, height: int, name: str) -> FrameSourceError:
    return FrameSourceError(f"{name} has frames of {width}x{height} pixels", expected=f"at most {IMAGE_PIXELS} pixels")


def _orientation_of(picture: Any) -> int:
    """Return the EXIF orientation by which a ``VideoFrame`` is shown; 1 if it states none, or another angle."""
    try:
        matrix = np.frombuffer(bytes(picture.side_data["DISPLAYMATRIX"]), dtype=np.int32)
    except KeyError:
        return AS_STORED
    return orientation_of_matrix(matrix.tolist()) if matrix.nbytes == _DISPLAY_MATRIX else AS_STORED
