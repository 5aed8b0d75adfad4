"""``VideoWriter``: pictures and their times as a video file that browsers play, through PyAV."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.errors import OutputError, UsageError
from vitedge.extras import require
from vitedge.files import create_file, unwritable
from vitedge.prediction import Image

TICKS = 90_000
"""Units of time in a second; an ``.avi`` has units of one frame instead."""
SHORTEST_STEP = 0.001
"""Seconds between two frames at least, because Matroska and WebM count milliseconds."""
KEYFRAME_SECONDS = 2.0
"""Seconds between two frames that a player may seek to."""
THREADS = 2
"""Threads of the encoder, which leave the other cores to inference."""
DENOMINATOR = 1001
"""Largest denominator of a frame rate: 30000/1001 is exact."""
RATES = (1 / DENOMINATOR, 240.0)
"""Least and largest frame rate of a file; some sources state 90000."""


@dataclass(frozen=True)
class VideoFormat:
    """How files of a suffix are written.

    Attributes:
        container: FFmpeg's name of the container.
        encoders: FFmpeg's names of the encoders that will do, the best first.
        options: options of the container, with which a file can be played up to where a crash cuts it off.
        is_constant: whether each frame has the same duration.
    """

    container: str
    encoders: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    is_constant: bool = False


# Fragments of a second while the file grows; closing turns it into an ordinary MP4, with one index.
_FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}
_CLUSTERS = {"cluster_time_limit": "1000"}
_H264 = ("libx264", "libopenh264")
_VP9 = "libvpx-vp9"

VIDEO_FORMATS = {
    ".mp4": VideoFormat("mp4", (*_H264, _VP9), _FRAGMENTS),
    ".m4v": VideoFormat("mp4", (*_H264, _VP9), _FRAGMENTS),
    ".mov": VideoFormat("mov", _H264, _FRAGMENTS),
    ".mkv": VideoFormat("matroska", (*_H264, _VP9), _CLUSTERS),
    ".webm": VideoFormat("webm", (_VP9,), _CLUSTERS),
    ".avi": VideoFormat("avi", ("mjpeg",), is_constant=True),
}
_ENCODER_OPTIONS = {
    # superfast takes 2/3 of veryfast's time, and 7/6 of its bits; lookahead would hold frames back.
    "libx264": {"preset": "superfast", "crf": "23", "rc-lookahead": "0"},
    _VP9: {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "32", "b": "0", "lag-in-frames": "0"},
}
_JPEG_QUALITY = 4
"""Quantizer of ``mjpeg``, 2 (best) to 31."""


def format_of(path: Path) -> VideoFormat:
    """Return the format for a path's suffix.

    Raises:
        UsageError: it is not in ``VIDEO_FORMATS``.
    """
    found = VIDEO_FORMATS.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"cannot save a video as {path.name!r}", expected=f"a name ending in {', '.join(VIDEO_FORMATS)}"
        )
    return found


def best_encoder(video_format: VideoFormat) -> str | None:
    """Return the first encoder of a format that this PyAV has.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    codec = require("av.codec", extra="camera", purpose="saving video")
    for name in video_format.encoders:
        with contextlib.suppress(codec.codec.UnknownCodecError):
            codec.Codec(name, "w")
            return name
    return None


class VideoWriter:
    """Writes a new video; what is written can be played at any time, and so can what a crash leaves.

    Args:
        path: path of a new file; its suffix is one of ``VIDEO_FORMATS``.
        height: rows of the video, even.
        width: columns of the video, even.
        fps: frames per second that the file states; the rate of an ``.avi``, whose frames are all equally long.
        overwrite: replace a file of that name.

    Raises:
        UsageError: the file cannot be made, or this PyAV has no encoder for it.
        OutputError: the disk is full.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: Path, *, height: int, width: int, fps: float, overwrite: bool = False) -> None:
        self._av: Any = require("av", extra="camera", purpose="saving video")
        self._path = path
        self._rate = Fraction(min(max(fps, RATES[0]), RATES[1])).limit_denominator(DENOMINATOR)
        self._format = format_of(path)
        self._unit = 1 / self._rate if self._format.is_constant else Fraction(1, TICKS)
        self._step = 1 if self._format.is_constant else round(SHORTEST_STEP * TICKS)
        self._tick = -self._step
        self._next_keyframe = 0.0
        encoder = best_encoder(self._format)
        if encoder is None:
            raise UsageError(
                f"PyAV cannot write {path}",
                expected=f"a PyAV with one of the encoders {', '.join(self._format.encoders)}",
                fix="install PyAV's own wheel, which has them (pip install --only-binary av av); or save it as .avi",
            )
        self._file = self._created(overwrite=overwrite)
        try:
            self._container = self._av.open(
                self._file, "w", format=self._format.container, options={**self._format.options, "flush_packets": "1"}
            )
            self._stream = self._added(encoder, height, width)
            self._container.start_encoding()
        except (self._av.FFmpegError, OSError) as error:
            self._file.fail(error)
            self._file.close()
            path.unlink()
            encodable = f"a video of {width}x{height} pixels that {encoder} can encode"
            raise unwritable(path, error, expected=encodable) from error

    def _created(self, *, overwrite: bool) -> _File:
        try:
            return _File(create_file(self._path, overwrite=overwrite))
        except OSError as error:
            raise unwritable(self._path, error, expected="a new file") from error

    def _added(self, encoder: str, height: int, width: int) -> Any:
        stream = self._container.add_stream(encoder, rate=self._rate, options=_ENCODER_OPTIONS.get(encoder, {}))
        context = stream.codec_context
        context.width, context.height = width, height
        context.time_base = self._unit
        context.thread_count = THREADS
        context.max_b_frames = 0
        context.gop_size = TICKS  # no limit: keyframes are asked for by time
        if encoder == "mjpeg":
            context.pix_fmt = "yuvj420p"
            context.qmin = context.qmax = _JPEG_QUALITY
        else:
            context.pix_fmt = "yuv420p"
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # 16 to 235
        return stream

    def write(self, picture: Image, seconds: float) -> None:
        """Append a picture.

        Args:
            picture: ``H×W×3`` uint8 BGR, of the size of the video.
            seconds: time from the beginning of the video; a frame that is not later than the one before is moved
                behind it.

        Raises:
            OutputError: the file cannot be written on, for example because the disk is full.
        """
        frame = self._av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="bgr24")
        matrix = None if self._stream.pix_fmt == "yuvj420p" else "ITU709"  # None is BT.601, as in all JPEG pictures
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace=matrix)
        self._tick = max(self._tick + self._step, round(seconds / self._unit))
        frame.pts, frame.time_base = self._tick, self._unit
        if seconds >= self._next_keyframe:
            self._next_keyframe = seconds + KEYFRAME_SECONDS
            frame.pict_type = self._av.video.frame.PictureType.I
        self._encode(frame)

    def _encode(self, frame: Any) -> None:
        """Encode a frame, or None for the end, and write what is ready."""
        try:
            for packet in self._stream.encode(frame):
                packet.duration = round(1 / (self._rate * self._unit))  # of the last frame: others end with the next
                self._container.mux(packet)
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BaseException:
        """Return what is to be raised after an error of the encoder or the file."""
        reason = self._file.fail(error)
        if not isinstance(reason, OSError):  # Ctrl-C
            return reason
        return OutputError(
            f"{self._path} cannot be written any more: {reason.strerror}",
            expected="room for the video",
            fix="free some disk space, or save it elsewhere; what was written before can be played",
        )

    def close(self) -> None:
        """Finish the file; a second call does nothing.

        Raises:
            OutputError: it cannot be finished; what was written before can be played.
        """
        if self._file.closed:
            return
        was_good = self._file.is_good
        try:
            if was_good:
                self._encode(None)
        finally:
            self._finish(report=was_good)

    def _finish(self, *, report: bool) -> None:
        try:
            self._container.close()
        except (self._av.FFmpegError, OSError) as error:
            if report:
                raise self._failed(error) from error
        finally:
            self._file.close()


class _File:
    """A new file for FFmpeg, which writes nothing after an error, so that what is on the disk stays whole."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._error: BaseException | None = None
        self.closed = False

    @property
    def is_good(self) -> bool:
        """Return whether there was no error."""
        return self._error is None

    def fail(self, error: BaseException) -> BaseException:
        """Note an error, and return the first one."""
        self._error = self._error or error
        return self._error

    def write(self, data: bytes) -> int:
        """Write all bytes.

        Raises:
            OSError: not all were written; ``fail`` tells why. FFmpeg would swallow a KeyboardInterrupt.
        """
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BaseException as error:
            raise OSError(errno.EIO, str(self.fail(error))) from error
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self.seek(0, os.SEEK_CUR)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)
