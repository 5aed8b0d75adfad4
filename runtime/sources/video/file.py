"""``open_video``: video files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vitedge.errors import FrameSourceError
from vitedge.extras import require
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.causes import cause_of, errors_of_pyav, fail, reason_of
from vitedge.runtime.sources.video.containers import CONTAINERS, ContainerError, check_container
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.packets import ContainerPackets
from vitedge.runtime.sources.video.pyav import open_container
from vitedge.safety.files import open_regular
from vitedge.safety.limits import VIDEO_BYTES

OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(CONTAINERS),
}
"""A file is read by FFmpeg's own demuxers of videos, and opens no other file and no address."""


def open_video(path: str | Path, options: SourceOptions | None = None) -> Decoded:
    """Open a video file. Other files that it names, as a playlist does, are not opened.

    Args:
        path: the file.
        options: threads of the decoder, and whether frames keep its planes.

    Raises:
        FrameSourceError: FFmpeg cannot read the file, it is not a regular file, it does not begin like a video, its
            codec has no decoder, or it exceeds a limit of ``vitedge.safety.limits``.
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", extra="camera", purpose="reading videos")
    size = _check_file(path)
    container, reason = _opened(av, os.path.abspath(path))  # noqa: PTH100 - so that no name is taken for a protocol
    if container is None:
        fail(_no_video(path, size, reason))
    return Decoded(ContainerPackets(container, str(path), live=False), options=options)


def _opened(av: Any, name: str) -> tuple[Any, str]:
    """Return the open container, or the reason why there is none."""
    try:
        return open_container(av, name, OPTIONS), ""
    except errors_of_pyav() as error:
        return None, reason_of(error)


def _check_file(path: str | Path) -> int:
    """Refuse a file that is not a video before FFmpeg sees it; return its size in bytes."""
    size = 0
    try:
        with open_regular(path, limit=VIDEO_BYTES) as stream:
            size = os.fstat(stream.fileno()).st_size
            check_container(stream)
    except ContainerError as error:
        raise _no_video(path, size, str(error)) from error
    except (OSError, ValueError) as error:
        raise FrameSourceError(
            f"{path} cannot be read: {error}", expected="a video file", cause=cause_of(error)
        ) from error
    return size


def _no_video(path: str | Path, size: int, why: str) -> FrameSourceError:
    return FrameSourceError(
        f"{path} ({size} bytes) is not a video that FFmpeg can read: {why}",
        expected="a whole video file, such as MP4, MOV, MKV, WebM, AVI or MPEG; or an image with one of the usual "
        "suffixes",
        fix="if it is a video, it is truncated (an MP4 has its index at the end) or damaged: copy it again, or convert "
        "it with ffmpeg",
        cause="no_video",
    )
