"""``open_source``: opens a camera, file, folder, glob, network stream or iterable, by what it is given."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import numpy as np

from vitedge.counts import counted
from vitedge.errors import FrameSourceError, UsageError, did_you_mean
from vitedge.files import did_you_mean_beside
from vitedge.prediction import Image
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.gstreamer.source import open_csi, open_pipeline
from vitedge.runtime.sources.images.files import ImageFiles, open_folder
from vitedge.runtime.sources.images.pillow import is_image_name
from vitedge.runtime.sources.images.reading import FoundImages
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.runtime.sources.options import (
    CameraOptions,
    NetworkOptions,
    PictureOptions,
    SourceOptions,
    options_as,
    take_options,
)
from vitedge.runtime.sources.stream_list import is_stream_list, only_stream
from vitedge.runtime.sources.test_picture import NumberedPicture
from vitedge.runtime.sources.video.file import open_video
from vitedge.runtime.sources.video.network import open_network
from vitedge.runtime.sources.video.v4l2 import open_camera
from vitedge.safety.files import is_file, is_folder
from vitedge.safety.limits import FOLDER_ENTRIES
from vitedge.safety.redact import redact_address

ACCEPTED = (
    "a camera (0, /dev/video0, v4l2://, csi://0), a network address (rtsp://, http://, …), a video file, an image, a "
    "folder of images, a glob (photos/*.jpg), a .streams list of one address, test://, gst:PIPELINE, or, in Python, an "
    "iterable of HxWx3 uint8 arrays, BGR"
)
LONGEST_NUMBER = 10
VIDEO4LINUX = 81
"""Major number of camera devices, such as those in ``/dev/v4l/by-id``."""
LASTING_PATHS = "/dev/v4l"
"""Folder of the paths that udev gives cameras by their serial numbers and sockets."""
PIPELINE = "gst:"
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
    if isinstance(source, str):
        return _open_named(source, options)
    if isinstance(source, Path):
        return _open_path(source, options)
    if isinstance(source, int) and not isinstance(source, bool):
        return open_camera(source, options_as(CameraOptions, options, f"camera {source}"))
    if isinstance(source, FrameSource):
        options_as(SourceOptions, options, source.name)
        return source
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise UsageError(
            f"the source is one array of shape {source.shape}",
            expected=ACCEPTED,
            fix="put frames into a list, or call classify for one image",
        )
    if isinstance(source, Iterable):
        options_as(SourceOptions, options, "an iterable of frames")
        return FrameIterable(source)
    raise UsageError(f"the source is {redact_address(repr(source)):.80}", expected=ACCEPTED)


def _open_named(source: str, options: SourceOptions | None) -> FrameSource:
    if not source.strip() and not os.path.lexists(source):  # as a path it would be the working directory
        raise UsageError("the source is empty", expected=ACCEPTED)
    if os.path.lexists(source):  # a file may have any name
        return _open_path(Path(source), options)
    if source[: len(PIPELINE)].lower() == PIPELINE:
        return open_pipeline(source[len(PIPELINE) :], options_as(SourceOptions, options, PIPELINE))
    scheme, separator, _ = source.partition("://")
    if separator:
        return _open_address(source, scheme.strip().lower(), options)
    if source.isascii() and source.isdecimal() and len(source) < LONGEST_NUMBER:
        return open_camera(int(source), options_as(CameraOptions, options, f"camera {source}"))
    return _open_path(Path(source), options)


def _open_address(address: str, scheme: str, options: SourceOptions | None) -> FrameSource:
    if scheme in NETWORK_SCHEMES:
        return _open_network(address, scheme, options)
    if scheme in OPENERS:
        return OPENERS[scheme](address, options)
    known = (*NETWORK_SCHEMES, *OPENERS)
    raise UsageError(
        f"unknown scheme in {redact_address(address)!r}",
        expected=f"one of {', '.join(f'{each}://' for each in known)}, {PIPELINE}PIPELINE, or a path",
        fix=did_you_mean(scheme, known),
    )


def _open_network(address: str, scheme: str, options: SourceOptions | None) -> FrameSource:
    without = frozenset() if scheme in RTSP_SCHEMES else WITHOUT_TRANSPORT
    address, taken = take_options(address, NetworkOptions, options, foreign=True, without=without)
    if taken.transport is not None and scheme not in RTSP_SCHEMES:
        raise UsageError(
            f"transport={taken.transport} is no option of {redact_address(address)}", expected="rtsp:// or rtsps://"
        )
    return open_network(address, taken)


def _open_v4l2(address: str, options: SourceOptions | None) -> FrameSource:
    rest, taken = take_options(address, CameraOptions, options)
    device = unquote(rest.partition("://")[2])
    if device.isascii() and device.isdecimal() and len(device) < LONGEST_NUMBER:
        return open_camera(int(device), taken)
    if not device.startswith("/"):
        raise UsageError(f"{redact_address(address)} names no device", expected="v4l2:///dev/video0 or v4l2://0")
    return open_camera(Path(device), taken)


def _open_csi(address: str, options: SourceOptions | None) -> FrameSource:
    rest, taken = take_options(address, CameraOptions, options)
    return open_csi(rest.partition("://")[2].strip("/"), taken)


def _open_picture(address: str, options: SourceOptions | None) -> FrameSource:
    rest, taken = take_options(address, PictureOptions, options)
    if rest.partition("://")[2].strip("/"):
        raise UsageError(f"{redact_address(address)} has a name", expected="options only: test://?fps=30&size=1280x720")
    return NumberedPicture(taken)


OPENERS: dict[str, Callable[[str, SourceOptions | None], FrameSource]] = {
    "v4l2": _open_v4l2,
    "csi": _open_csi,
    "test": _open_picture,
}


def _open_path(path: Path, options: SourceOptions | None) -> FrameSource:
    if _is_camera(path):
        return open_camera(path, options_as(CameraOptions, options, str(path)))
    if is_stream_list(path) and is_file(path):
        return _open_named(only_stream(path), options)
    common = options_as(SourceOptions, options, str(path))
    if is_folder(path):
        return open_folder(path)
    if is_file(path):
        return ImageFiles((path,), str(path)) if is_image_name(path) else open_video(path, common)
    if os.path.lexists(path):
        raise FrameSourceError(f"{path} is not a file, folder or camera that can be opened", expected=ACCEPTED)
    if glob.has_magic(str(path)):
        return _open_glob(path, options)
    raise _missing(path)


def _open_glob(pattern: Path, options: SourceOptions | None) -> FrameSource:
    """Open the images that a pattern matches; or the one file that it matches, whatever it is."""
    try:
        matches = (Path(each) for each in islice(glob.iglob(str(pattern), recursive=True), FOLDER_ENTRIES))  # noqa: PTH207
        files = sorted(each for each in matches if is_file(each))
    except (OSError, ValueError):
        files = []
    if len(files) == 1:
        return _open_path(files[0], options)
    if not files:
        raise _missing(pattern)
    images = tuple(each for each in files if is_image_name(each))
    others = Counter(each.suffix.lower() or "without a suffix" for each in files if not is_image_name(each))
    notice = FoundImages(images, others).notice
    if not images:
        raise UsageError(
            f"{pattern} matches {counted(len(files), 'file')}, and no image: {notice}",
            expected="a pattern of images, or one that matches one file",
            fix="list several videos or cameras in a .streams file, and run them with streams",
        )
    options_as(SourceOptions, options, str(pattern))
    return ImageFiles(images, str(pattern), notices=(f"{pattern}: {notice}",) if notice else ())


def _is_camera(path: Path) -> bool:
    """Decide whether a path names a camera, attached or not."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return path.match("/dev/video*") or path.is_relative_to(LASTING_PATHS)
    return stat.S_ISCHR(status.st_mode) and (path.match("/dev/video*") or os.major(status.st_rdev) == VIDEO4LINUX)


def _missing(path: Path) -> FrameSourceError:
    is_address = ":/" in str(path) and not path.is_absolute()
    address = redact_address(str(path).replace(":/", "://", 1))  # a Path takes a slash away
    return FrameSourceError(
        f"there is no source {redact_address(str(path))}",
        expected=ACCEPTED,
        fix=f"an address is a text with two slashes: {address}" if is_address else did_you_mean_beside(path),
        cause="not_found",
    )
