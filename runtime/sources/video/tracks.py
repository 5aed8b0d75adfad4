"""The tracks of an open PyAV container: which of them is the video, and what it says about itself."""

from __future__ import annotations

import re
from typing import Any

from vitedge.errors import FrameSourceError
from vitedge.safety.limits import IMAGE_PIXELS

LARGEST_FPS = 500.0
"""A stream of unknown rate reports the rate of its clock, such as 90000."""
UNTIMED = frozenset({"h264", "hevc", "m4v", "mjpeg", "mpegvideo", "mpjpeg", "jpeg_pipe", "png_pipe"})
"""Formats without timestamps, for which FFmpeg makes them up, at 25 frames per second."""


def video_of(container: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """Return the video track of a container, and notices about others. The picture on a cover is no video.

    Raises:
        FrameSourceError: it has none, or no decoder for it.
    """
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [each for each in container.streams.video if not each.disposition & pictures]
    if not videos:
        raise no_video(name, {each.type for each in container.streams})
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        raise _no_decoder(container, stream, name)
    several = f"{name} has {len(videos)} video tracks; the one of {_size(stream)} is read"
    return stream, (several,) if len(videos) > 1 else ()


def no_video(name: str, kinds: set[str]) -> FrameSourceError:
    """Describe a source that has tracks of these kinds, and none of them a video."""
    others = ", ".join(sorted(kinds)) or "nothing"
    return FrameSourceError(
        f"{name} has no video track; it holds {others}",
        expected="a video",
        fix="check the address: some cameras send sound or text at one of their own; ffprobe lists the tracks",
        cause="no_video",
    )


def _size(stream: Any) -> str:
    return f"{stream.codec_context.width}x{stream.codec_context.height}"


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


def rate_of(stream: Any, *, live: bool) -> float | None:
    """Return the frames per second that a track states; None if it states none that can be.

    A live stream is opened before FFmpeg could count its frames, and its codec knows best.
    """
    stated = (stream.average_rate, stream.guessed_rate)
    rates = (stream.codec_context.framerate, *stated) if live else stated
    return next((float(rate) for rate in rates if rate and 0 < rate <= LARGEST_FPS), None)


def length_of(container: Any, stream: Any, fps: float | None) -> int | None:
    """Return the number of frames that a file states, or that its duration makes likely; None without both."""
    if stream.frames:
        return int(stream.frames)
    return round(container.duration / 1e6 * fps) or None if container.duration and fps else None


def check_pixels(width: int, height: int, name: str) -> None:
    """Refuse frames of more pixels than ``IMAGE_PIXELS``.

    Raises:
        FrameSourceError: there are more.
    """
    if width * height > IMAGE_PIXELS:
        raise too_large(width, height, name)


def too_large(width: int, height: int, name: str) -> FrameSourceError:
    """Describe frames of too many pixels."""
    return FrameSourceError(f"{name} has frames of {width}x{height} pixels", expected=f"at most {IMAGE_PIXELS} pixels")
