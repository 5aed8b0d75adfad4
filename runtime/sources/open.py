"""``open_source``: opens a camera, file, folder, network stream or iterable, by what it is given."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vitedge.errors import FrameSourceError, UsageError, did_you_mean
from vitedge.prediction import Image
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.capture import open_camera, open_stream, open_video
from vitedge.runtime.sources.images.files import ImageFiles, open_folder
from vitedge.runtime.sources.images.pillow import is_image_name
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.safety.files import is_file, is_folder
from vitedge.safety.redact import redact_address

ACCEPTED = (
    "a camera number (0), a video file, an image, a folder of images, an rtsp:// or http:// address, "
    "or, in Python, an iterable of HxWx3 uint8 arrays"
)
LONGEST_NUMBER = 10
VIDEO4LINUX = 81
"""Major number of camera devices, such as those in ``/dev/v4l/by-id``."""
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp")

Source: TypeAlias = int | str | Path | FrameSource | Iterable[Image | Frame]


def open_source(source: Source) -> FrameSource:
    """Open a source of frames. The caller closes it.

    Args:
        source: a camera number (also as a string of digits, or ``/dev/video0``); the path of a video file, of an image
            or of a folder of images; an ``rtsp://`` or ``http://`` address; an iterable of ``H×W×3`` uint8 BGR arrays
            or of ``Frame`` objects; or an open source, which is returned as it is.

    Raises:
        FrameSourceError: the source does not exist, cannot be opened, or has no frame.
        UsageError: ``source`` is something else.
        MissingExtraError: OpenCV or Pillow is needed and not installed.
    """
    if isinstance(source, FrameSource):
        return source
    if isinstance(source, int) and not isinstance(source, bool):
        return open_camera(source)
    if isinstance(source, Path):
        return _open_path(source)
    if isinstance(source, str):
        return _open_named(source)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise UsageError(
            f"the source is one array of shape {source.shape}",
            expected=ACCEPTED,
            fix="put frames into a list, or call classify for one image",
        )
    if isinstance(source, Iterable):
        return FrameIterable(source)
    raise UsageError(f"the source is {redact_address(repr(source)):.80}", expected=ACCEPTED)


def _open_named(source: str) -> FrameSource:
    scheme, separator, _ = source.partition("://")
    if separator and scheme.lower() in STREAM_SCHEMES:
        return open_stream(source)
    if separator:
        raise UsageError(
            f"unknown scheme in {redact_address(source)!r}",
            expected=f"one of {', '.join(f'{each}://' for each in STREAM_SCHEMES)}, or a path",
            fix=did_you_mean(scheme, STREAM_SCHEMES),
        )
    if source.isdecimal() and len(source) < LONGEST_NUMBER and not os.path.lexists(source):
        return open_camera(int(source))
    return _open_path(Path(source))


def _open_path(path: Path) -> FrameSource:
    if is_folder(path):
        return open_folder(path)
    if is_file(path):
        return ImageFiles((path,), str(path)) if is_image_name(path) else open_video(path)
    if _is_camera(path):
        return open_camera(path)
    if os.path.lexists(path):
        raise FrameSourceError(f"{path} is not a file, folder or camera that can be opened", expected=ACCEPTED)
    raise _missing(path)


def _is_camera(path: Path) -> bool:
    """Whether a path names a camera, attached or not."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return path.match("/dev/video*")
    return stat.S_ISCHR(status.st_mode) and (path.match("/dev/video*") or os.major(status.st_rdev) == VIDEO4LINUX)


def _missing(path: Path) -> FrameSourceError:
    try:
        siblings = [each.name for each in path.parent.iterdir()]
    except (OSError, ValueError):
        siblings = []
    return FrameSourceError(
        f"there is no source {redact_address(str(path))}",
        expected=ACCEPTED,
        fix=did_you_mean(path.name, siblings),
    )
