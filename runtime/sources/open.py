"""Where frames come from: ``open_source`` decides by what it is given.

Every source is iterated once, by one thread, and closed by whoever opened it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vitedge.errors import FrameSourceError, UsageError, did_you_mean
from vitedge.runtime.preprocess.preprocessor import check_frame
from vitedge.runtime.sources.base import Frame, FrameSource, Image
from vitedge.runtime.sources.capture import open_camera, open_stream, open_video
from vitedge.runtime.sources.images import IMAGE_SUFFIXES, list_images, read_image
from vitedge.safety.files import is_file, is_folder

logger = logging.getLogger("vitedge")

ACCEPTED = (
    "a camera number (0), a video file, an image, a folder of images, an rtsp:// or http:// address, "
    "or, in Python, an iterable of HxWx3 uint8 arrays"
)
LONGEST_NUMBER = 10
VIDEO4LINUX = 81
"""Major number of the devices that are cameras, such as those of ``/dev/v4l/by-id``."""
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp")
SKIPPED_NAMED = 5


class ImageFiles(FrameSource):
    """Image files, in the order given, through Pillow; unreadable ones are skipped, counted and named.

    Args:
        paths: the files.
        name: what to call them in messages.
    """

    def __init__(self, paths: tuple[Path, ...], name: str) -> None:
        self.name = name
        self.length = len(paths)
        self._paths = paths
        self._skipped: list[Path] = []

    @property
    def notices(self) -> tuple[str, ...]:
        """The images that were skipped."""
        if not self._skipped:
            return ()
        names = ", ".join(str(path) for path in self._skipped[:SKIPPED_NAMED])
        more = len(self._skipped) - SKIPPED_NAMED
        tail = f" and {more} more" if more > 0 else ""
        return (f"{self.name}: skipped {len(self._skipped)} unreadable of {self.length} images: {names}{tail}",)

    def __iter__(self) -> Iterator[Frame]:
        """The images that can be read."""
        for index, path in enumerate(self._paths):
            try:
                image = read_image(path)
            except FrameSourceError as error:
                self._skip(path, error)
                continue
            yield Frame(image, index, order="RGB", file=str(path))

    def close(self) -> None:
        """Nothing is held open between images."""

    def _skip(self, path: Path, error: FrameSourceError) -> None:
        if len(self._paths) == 1:
            raise error
        self._skipped.append(path)
        logger.warning("skipped: %s", error.problem)
        if len(self._skipped) == len(self._paths):
            raise FrameSourceError(
                f"none of the {len(self._paths)} images of {self.name} can be read; the last: {error.problem}",
                expected=error.expected or "whole image files",
                fix=error.fix,
            ) from error


class FrameIterable(FrameSource):
    """Frames that the caller makes: ``H×W×3`` uint8 BGR arrays, or ``Frame`` objects with a time of their own.

    Args:
        frames: what to iterate; it is not closed.
        live: whether frames that nobody fetches are lost, as with a camera.
    """

    def __init__(self, frames: Iterable[Image | Frame], *, live: bool = False) -> None:
        self.name = "the iterable of frames"
        self.live = live
        self.length = len(frames) if isinstance(frames, Sized) else None
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        """The frames, each checked."""
        for index, item in enumerate(self._frames):
            frame = item if isinstance(item, Frame) else Frame(item, index)
            try:
                check_frame(frame.image)
            except FrameSourceError as error:
                raise FrameSourceError(
                    f"frame {index} of {self.name}: {error.problem}", expected=error.expected, fix=error.fix
                ) from error
            yield frame

    def close(self) -> None:
        """The caller's iterable is the caller's to close."""


Source: TypeAlias = int | str | Path | FrameSource | Iterable[Image | Frame]


def open_source(source: Source) -> FrameSource:
    """Open what frames are to come from.

    Args:
        source: a camera number (also as a string of digits, or ``/dev/video0``), the path of a video file, of an
            image or of a folder of images, an ``rtsp://`` or ``http://`` address, an iterable of ``H×W×3`` uint8
            BGR arrays or of ``Frame`` objects, or a source that is open already, which is returned as it is.

    Raises:
        FrameSourceError: it does not exist, does not open, or holds no frame.
        UsageError: it is of another kind.
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
    raise UsageError(f"the source is {source!r:.80}", expected=ACCEPTED)


def _open_named(source: str) -> FrameSource:
    scheme, separator, _ = source.partition("://")
    if separator and scheme.lower() in STREAM_SCHEMES:
        return open_stream(source)
    if separator:
        raise UsageError(
            f"unknown scheme in {source!r}",
            expected=f"one of {', '.join(f'{each}://' for each in STREAM_SCHEMES)}, or a path",
            fix=did_you_mean(scheme, STREAM_SCHEMES),
        )
    if source.isdecimal() and len(source) < LONGEST_NUMBER and not os.path.lexists(source):
        return open_camera(int(source))
    return _open_path(Path(source))


def _open_path(path: Path) -> FrameSource:
    if is_folder(path):
        return _open_folder(path)
    if is_file(path):
        return ImageFiles((path,), str(path)) if path.suffix.lower() in IMAGE_SUFFIXES else open_video(path)
    if _is_camera(path):
        return open_camera(path)
    if os.path.lexists(path):
        raise FrameSourceError(f"{path} is no file, folder or camera that can be opened", expected=ACCEPTED)
    raise _missing(path)


def _is_camera(path: Path) -> bool:
    """Whether a path is of a camera, one that is not attached too."""
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
        f"there is no source {path}",
        expected=ACCEPTED,
        fix=did_you_mean(path.name, siblings),
    )


def _open_folder(folder: Path) -> ImageFiles:
    paths = list_images(folder)
    if not paths:
        raise FrameSourceError(
            f"the folder {folder} holds no images",
            expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}, in it or in folders below it",
            fix="links to folders are not followed",
        )
    return ImageFiles(paths, str(folder))
