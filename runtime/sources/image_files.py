"""Image files as a source of frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.images import IMAGE_SUFFIXES, list_images, read_image

logger = logging.getLogger("vitedge")

SKIPPED_NAMED = 5
"""Skipped images that are named in a notice."""


class ImageFiles(FrameSource):
    """Image files, in the given order, read with Pillow; unreadable files are skipped and reported in ``notices``.

    Args:
        paths: the files.
        name: name in messages.
    """

    def __init__(self, paths: tuple[Path, ...], name: str) -> None:
        self.name = name
        self.length = len(paths)
        self._paths = paths
        self._skipped: list[Path] = []

    @property
    def notices(self) -> tuple[str, ...]:
        """The images that were skipped, in one line."""
        if not self._skipped:
            return ()
        names = ", ".join(str(path) for path in self._skipped[:SKIPPED_NAMED])
        more = len(self._skipped) - SKIPPED_NAMED
        tail = f" and {more} more" if more > 0 else ""
        return (f"{self.name}: skipped {len(self._skipped)} unreadable of {self.length} images: {names}{tail}",)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images that can be read.

        Raises:
            FrameSourceError: the only image, or every image, is unreadable.
        """
        for index, path in enumerate(self._paths):
            try:
                image = read_image(path)
            except FrameSourceError as error:
                self._skip(path, error)
                continue
            yield Frame(image, index, order="RGB", file=str(path))

    def close(self) -> None:
        """Do nothing: no file stays open between images."""

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


def open_folder(folder: Path) -> ImageFiles:
    """Open the images of a folder and of the folders below it, sorted by path.

    Raises:
        FrameSourceError: the folder holds no images, or cannot be listed.
    """
    paths = list_images(folder)
    if not paths:
        raise FrameSourceError(
            f"the folder {folder} holds no images",
            expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}, in it or in folders below it",
            fix="links to folders are not followed",
        )
    return ImageFiles(paths, str(folder))
