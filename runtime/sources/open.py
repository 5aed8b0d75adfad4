"""``open_source``: opens a camera, file, folder, glob, network stream or iterable, by what it is given."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
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
from vitedge.runtime.sources.options import (
    NetworkOptions,
    PictureOptions,
    SourceOptions,
    take_options,
)
from vitedge.runtime.sources.test_picture import NumberedPicture
from vitedge.safety.files import is_file, is_folder
from vitedge.safety.redact import redact_address

ACCEPTED = (
    "a camera (0, /dev/video0, v4l2://, csi://0), a network address (rtsp://, http://, …), a video file, an image, a "
    "folder of images, a glob (photos/*.jpg), a .streams list of one address, test://, gst:PIPELINE, or, in Python, an "
    "iterable of HxWx3 uint8 arrays"
)
LONGEST_NUMBER = 10
VIDEO4LINUX = 81
"""Major number of camera devices, such as those in ``/dev/v4l/by-id``."""
RTSP_SCHEMES = ("rtsp", "rtsps")
NETWORK_SCHEMES = (*RTSP_SCHEMES, "http", "https", "srt", "udp", "tcp", "rtmp", "rtmps")
WITHOUT_TRANSPORT = frozenset({"transport"})

Source: TypeAlias = int | str | Path | FrameSource | Iterable[Image | Frame]


def open_source(source: Source, options: SourceOptions | None = None) -> FrameSource:
    """Open a source of frames. The caller closes it.

    Args:
        source: a camera number (also as a string of digits) or the path of a camera; an address, with options in its
            query; the path of a video, of an image, of a folder of images or of a ``.streams`` list of one address; a
            glob of images; an iterable of ``H×W×3`` uint8 BGR arrays or of ``Frame`` objects; or an open source, which
            is returned as it is. ``docs/cameras.md`` describes each.
        options: the options of the source; ``SourceOptions`` fit every source. What the query of an address says may
            stand here too, if it is the same.

    Raises:
        FrameSourceError: the source does not exist, cannot be opened, or has no frame.
        UsageError: ``source`` is something else, or an option is wrong.
        MissingExtraError: a package that reads this kind of source is not installed.
    """
    if isinstance(source, FrameSource):
        return _without_options(source, options, source.name)
    if isinstance(source, int) and not isinstance(source, bool):
        return open_camera(source)
    if isinstance(source, Path):
        return _open_path(source, options)
    if isinstance(source, str):
        return _open_named(source, options)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise UsageError(
            f"the source is one array of shape {source.shape}",
            expected=ACCEPTED,
            fix="put frames into a list, or call classify for one image",
        )
    if isinstance(source, Iterable):
        return FrameIterable(source)
    raise UsageError(f"the source is {redact_address(repr(source)):.80}", expected=ACCEPTED)


def _without_options(source: FrameSource, options: SourceOptions | None, name: str) -> FrameSource:
    if options is not None:
        raise UsageError(f"{name} is open already", expected="options only for a source that vitedge opens")
    return source


def _open_named(source: str, options: SourceOptions | None) -> FrameSource:
    scheme, separator, _ = source.partition("://")
    if separator:
        return _open_address(source, scheme.lower(), options)
    if source.isdecimal() and len(source) < LONGEST_NUMBER and not os.path.lexists(source):
        return open_camera(int(source))
    return _open_path(Path(source), options)


def _open_address(address: str, scheme: str, options: SourceOptions | None) -> FrameSource:
    if scheme in NETWORK_SCHEMES:
        without = frozenset() if scheme in RTSP_SCHEMES else WITHOUT_TRANSPORT
        address, _ = take_options(address, NetworkOptions, options, foreign=True, without=without)
        return open_stream(address)
    if scheme in OPENERS:
        return OPENERS[scheme](address, options)
    known = (*NETWORK_SCHEMES, *OPENERS)
    raise UsageError(
        f"unknown scheme in {redact_address(address)!r}",
        expected=f"one of {', '.join(f'{each}://' for each in known)}, or a path",
        fix=did_you_mean(scheme, known),
    )


def _open_picture(address: str, options: SourceOptions | None) -> FrameSource:
    rest, taken = take_options(address, PictureOptions, options)
    if rest.partition("://")[2].strip("/"):
        raise UsageError(f"{redact_address(address)} names something", expected="test://?fps=30&size=1280x720")
    return NumberedPicture(taken)


OPENERS: dict[str, Callable[[str, SourceOptions | None], FrameSource]] = {"test": _open_picture}


def _open_path(path: Path, options: SourceOptions | None) -> FrameSource:
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
        cause="not_found",
    )
