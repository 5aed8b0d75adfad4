"""``Decoded``: the frames of a packet source: of a camera, a network stream or a video file.

A live source decodes in one thread: several would each hold a frame back. Its frames keep the decoder's planes, without
a copy. A file decodes in a thread a core, and its frames are BGR, converted by FFmpeg as OpenCV converts them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from vitedge.counts import counted
from vitedge.errors import FrameSourceError, VitedgeError
from vitedge.runtime.preprocess.orientation import AS_STORED, is_turned
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.causes import cause_of, errors_of_pyav, fail, reason_of, stopped, undecodable
from vitedge.runtime.sources.video.clock import ArrivalClock, Capture, Clock
from vitedge.runtime.sources.video.packets import Coded, PacketSource
from vitedge.runtime.sources.video.pictures import Converter, orientation_of, planes_of
from vitedge.runtime.sources.video.tracks import check_pixels, too_large
from vitedge.runtime.system.owned import Owned
from vitedge.safety.escape import terminal
from vitedge.safety.limits import IMAGE_PIXELS

logger = logging.getLogger("vitedge")

SHORTEST_CUT_SECONDS = 0.2
UNDECODABLE_TIMEOUTS = 6.0
"""Times ``read_timeout`` that a live source may send no picture, but packets: some cameras send a key frame in 10 s."""
TORN_BY_SLICES = frozenset({"vp7", "vp8"})
"""Codecs that FFmpeg 8 sometimes decodes wrongly in slice threads: rows at the edge of two macroblocks differ."""
MOST_REORDERED = 64
"""Damaged pictures that a decoder may hold back."""
LOW_DELAY = 1 << 19
"""FFmpeg's flag for a decoder that gives each frame as soon as it can."""

T = TypeVar("T")


class Decoded(Owned, FrameSource):
    """Frames of a packet source, which they own.

    Args:
        packets: the packets of a video.
        options: timeouts, threads, and whether frames keep planes.
        clock: tells when the frames of a live source were captured; None for the time of reading.
        notices: problems that showed when it was opened.
        failed: describes an error of PyAV while the source is read; gets the error and the number of frames before it.
    """

    _refusal: ClassVar[type[VitedgeError]] = FrameSourceError

    def __init__(
        self,
        packets: PacketSource,
        *,
        options: SourceOptions | None = None,
        clock: Clock | None = None,
        notices: tuple[str, ...] = (),
        failed: Callable[[BaseException, int], FrameSourceError] | None = None,
    ) -> None:
        self.name = packets.name
        self.live = packets.live
        self.options = self._options = options or SourceOptions()
        self._clock = clock or ArrivalClock()
        self._source = packets
        self._describe = failed
        self._busy = threading.Lock()
        self._closed = self._freed = False
        self._notices: list[str] = []
        self._damaged = self._undecodable = 0
        try:
            self._prepare()
        except BaseException:
            packets.close()
            raise
        for notice in (*notices, *packets.notices):
            self._notice(notice)
        self._acquired(f"the source {self.name}")

    @property
    def notices(self) -> tuple[str, ...]:
        """Return problems that did not end the stream."""
        counted = []
        if self._undecodable:
            counted.append(f"{self.name}: {_frames(self._undecodable)} not decodable and left out")
        if self._damaged:
            counted.append(f"{self.name}: {_frames(self._damaged)} damaged")
        counted += [f"{self.name}: {each}" for each in self._source.losses]
        return (*self._notices, *counted)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames until the end of the file, or for a live source until ``close``.

        Raises:
            FrameSourceError: a live source stopped delivering, no frame can be decoded, frames become too large, or
                this process was forked after the source was opened.
        """
        self._check_process()
        progress = _Progress()
        error: FrameSourceError | None = None
        try:
            for coded in self._packets(progress):
                for picture, corrupt in self._pictures(coded):
                    yield self._frame(picture, coded.at_ns, progress, corrupt=corrupt)
                    progress.delivered += 1
                    progress.pictured_ns = coded.at_ns
        except _Ended as ended:
            error = ended.error
        if error is not None:
            fail(error)
        if not self._closed:
            self._explain_end(progress)

    def close(self) -> None:
        """Free the device or file; a thread that reads it at this moment frees it when its read ends, or is ended.

        Raises:
            FrameSourceError: this process was forked after the source was opened.
        """
        self._check_process()
        self._released()
        self._closed = True
        if not self._freed:
            self._source.interrupt()
        self._free_if_closed()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _prepare(self) -> None:
        packets, context = self._source, self._source.context
        check_pixels(*packets.size, self.name)
        self.fps, self.length, self._codec = packets.fps, packets.length, context.name
        threads = self._options.decode_threads
        if self.live:
            sliced = threads and self._codec not in TORN_BY_SLICES
            context.thread_type, context.thread_count = ("SLICE", threads) if sliced else ("NONE", 1)
            context.flags |= LOW_DELAY
        else:
            context.thread_type, context.thread_count = "AUTO", threads or 0
        strict = {"err_detect": "explode"} if context.name == "mjpeg" else {}
        context.options = {**context.options, "max_pixels": str(IMAGE_PIXELS), **strict}
        self._lenient: Any = None
        self._planes = self.live if self._options.planes is None else self._options.planes
        self._converter = Converter()
        self._first_seconds: float | None = None
        self._orientation, self._rotation = AS_STORED, None
        self._damaged_times: deque[int] = deque(maxlen=MOST_REORDERED)

    def _step(self, call: Callable[[], T | None]) -> T | None:
        """Call the packet source, unless the source is closed. Nobody frees it meanwhile."""
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
                if not self._freed:
                    self._freed = True
                    self._source.close()
            finally:
                self._busy.release()

    def _packets(self, progress: _Progress) -> Iterator[Coded]:
        """Yield the packets of the video track."""
        waited = 0
        start = last = time.monotonic_ns()
        while True:
            began = time.monotonic_ns()
            coded = self._read(progress)
            if coded is None:
                return
            now = time.monotonic_ns()
            self._check_time(progress, now - began, 0)
            waited += now - began
            progress.note_end(coded.packet)
            if coded.is_video:
                self._arrived(coded, waited)
                progress.packets += coded.packet.size > 0
                waited, last = 0, now
                yield coded
            self._check_time(progress, now - last, now - max(progress.pictured_ns, start))

    def _check_time(self, progress: _Progress, without_packet_ns: int, without_picture_ns: int) -> None:
        """End a live source that sends nothing, sound alone, or nothing that can be decoded.

        Where nothing comes in time, FFmpeg first gives what its parser held back, as if it had just come.
        """
        seconds = self._options.read_timeout
        if self.live and without_packet_ns >= seconds * 1e9:
            raise _Ended(stopped(self.name, "timeout", progress.delivered, seconds=seconds))
        if self.live and without_picture_ns > UNDECODABLE_TIMEOUTS * seconds * 1e9:
            raise _Ended(undecodable(self.name, progress.delivered, seconds=UNDECODABLE_TIMEOUTS * seconds))

    def _read(self, progress: _Progress) -> Coded | None:
        try:
            return self._step(self._next)
        except errors_of_pyav() as error:
            if self._closed:
                return None
            if not self.live and cause_of(error) == "no_video":
                progress.broken = reason_of(error)
                return None
            failure = self._failed(error, progress.delivered)
        raise _Ended(failure)

    def _next(self) -> Coded | None:
        """Read a packet; tell the clock what the sender said of its own."""
        coded = self._source.read()
        zero = self._source.sender_zero_ns()
        if zero is not None:
            self._clock.sender_says(zero - (time.time_ns() - time.monotonic_ns()))
        return coded

    def _arrived(self, coded: Coded, waited: int) -> None:
        packet = coded.packet
        if self.live and packet.size:
            self._clock.arrived(_nanoseconds(packet.pts, packet.time_base), coded.at_ns, waited)

    def _pictures(self, coded: Coded) -> list[tuple[Any, bool]]:
        """Decode a packet into pictures, each with whether it is damaged; count a packet that cannot be decoded."""
        if not coded.is_decodable:
            return []
        packet, context, failure = coded.packet, self._source.context, None
        if coded.is_damaged:
            self._damaged_times.append(packet.pts)
        try:
            pictures = self._step(lambda: self._source.decode(packet)) or []
            return [(each, bool(each.is_corrupt) or each.pts in self._damaged_times) for each in pictures]
        except errors_of_pyav() as error:
            width, height = (context.width, context.height) if context is not None else (0, 0)
            if width * height > IMAGE_PIXELS:
                failure = too_large(width, height, self.name)
            elif cause_of(error) == "codec":
                failure = self._failed(error, 0)
        if failure is not None:
            raise _Ended(failure)
        rescued = self._rescued(packet)
        self._undecodable += not rescued
        return [(picture, True) for picture in rescued]

    def _rescued(self, packet: Any) -> list[Any]:
        """Decode what is there of a torn JPEG, whose decoder otherwise does not tell that it is torn."""
        if self._codec != "mjpeg":
            return []
        try:
            return self._step(lambda: self._lenient_decoder().decode(packet)) or []
        except errors_of_pyav():
            return []

    def _lenient_decoder(self) -> Any:
        if self._lenient is None:
            import av

            self._lenient = av.CodecContext.create(self._codec, "r")
            self._lenient.thread_type, self._lenient.thread_count = "NONE", 1
            self._lenient.options = {"max_pixels": str(IMAGE_PIXELS)}
        return self._lenient

    def _frame(self, picture: Any, read: int, progress: _Progress, *, corrupt: bool) -> Frame:
        if picture.width * picture.height > IMAGE_PIXELS:
            raise _Ended(too_large(picture.width, picture.height, self.name))
        capture, backlog = Capture(read, "arrival"), False
        if self.live:
            capture, backlog = (
                self._clock.captured(_nanoseconds(picture.pts, picture.time_base), read),
                self._clock.backlog,
            )
        now = time.monotonic_ns()
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
        seconds = picture.time if self._source.is_timed else None
        if seconds is None:
            return None
        if self._first_seconds is None:
            self._first_seconds = seconds
        return float(seconds - self._first_seconds)

    def _turn(self, picture: Any) -> None:
        """Read how the video is shown, when that changes."""
        if picture.rotation != self._rotation:
            self._rotation = picture.rotation
            self._orientation = orientation_of(picture)

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
            self._notice(
                f"{self.name} is damaged: reading ended after {counted(progress.delivered, 'frame')}: {progress.broken}"
            )
        for notice in self.notices[len(self._notices) :]:
            logger.warning("%s", terminal(notice))

    def _is_cut_off(self, progress: _Progress) -> bool:
        """Decide whether there are too few frames *and* every track ends too early.

        An audio track that is longer than the video does not make it cut off, and nor does a frame rate that varies.
        """
        stated = self._source.stated
        if not stated.seconds or (stated.frames and stated.frames - progress.packets <= 1):
            return False
        ended = progress.end - stated.start
        interval = ended / max(1, progress.packets - 1)
        return stated.seconds - ended > max(2 * interval, SHORTEST_CUT_SECONDS)

    def _failed(self, error: BaseException, delivered: int) -> FrameSourceError:
        """Describe an error of PyAV while the source is read."""
        if self._describe is not None:
            return self._describe(error, delivered)
        return FrameSourceError(
            f"{self.name} cannot be read after {counted(delivered, 'frame')}: {reason_of(error)}",
            expected="a whole video" if not self.live else "a camera that goes on",
            cause=cause_of(error),
        )

    def _notice(self, text: str) -> None:
        self._notices.append(text)
        logger.warning("%s", terminal(text))


@dataclass
class _Progress:
    """What was read so far.

    Attributes:
        delivered: frames.
        packets: packets of the video track.
        end: greatest time at which a packet of any track ends, in seconds.
        broken: why reading ended, if it did not end with the file.
        pictured_ns: when the packet of the last picture was read.
    """

    pictured_ns: int = 0
    delivered: int = 0
    packets: int = 0
    end: float = 0.0
    broken: str = ""

    def note_end(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base:
            self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))


class _Ended(Exception):  # noqa: N818 - it only carries an error
    """Reading ended with an error, which is raised again where no error of FFmpeg is its context."""

    def __init__(self, error: FrameSourceError) -> None:
        self.error = error


def _frames(count: int) -> str:
    return counted(count, "frame was", "frames were")


def _nanoseconds(pts: int | None, time_base: Fraction | None) -> int | None:
    return None if pts is None or not time_base else pts * 1_000_000_000 * time_base.numerator // time_base.denominator
