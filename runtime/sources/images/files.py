"""Image files as a source of frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from vitedge.counts import share_of
from vitedge.errors import FrameSourceError
from vitedge.runtime.preprocess.orientation import is_turned
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.images.reading import find_images, open_image

logger = logging.getLogger("vitedge")

SKIPPED_NAMED = 5
"""Skipped images that are named in a notice."""


class ImageFiles(FrameSource):
    """Image files, in the given order, read with Pillow; unreadable files are skipped and reported in ``notices``.

    Args:
        paths: the files.
        name: name in messages.
        notices: what showed when the files were found.
    """

    def __init__(self, paths: tuple[Path, ...], name: str, *, notices: tuple[str, ...] = ()) -> None:
        self.name = name
        self._notices = notices
        self.length = len(paths)
        self._paths = paths
        self._skipped: list[Path] = []
        self._first_problem = ""

    @property
    def notices(self) -> tuple[str, ...]:
        """Name the skipped images and why the first was skipped; add remarks from the search for files."""
        if not self._skipped:
            return self._notices
        names = ", ".join(str(path) for path in self._skipped[:SKIPPED_NAMED])
        more = len(self._skipped) - SKIPPED_NAMED
        tail = f" and {more} more" if more > 0 else ""
        skipped = f"{self.name}: skipped {len(self._skipped)} unreadable of {self.length} images: {names}{tail}"
        return (skipped, f"{self.name}: the first was skipped because {self._first_problem}", *self._notices)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images that can be read.

        Raises:
            FrameSourceError: the only image, or every image, is unreadable.
        """
        for index, path in enumerate(self._paths):
            try:
                stored = open_image(path).decode()
            except FrameSourceError as error:
                self._skip(path, error)
                continue
            self.oriented += is_turned(stored.orientation)
            yield Frame(stored.pixels, index, order="RGB", file=str(path), orientation=stored.orientation)

    def close(self) -> None:
        """Do nothing: no file stays open between images."""

    def _skip(self, path: Path, error: FrameSourceError) -> None:
        if len(self._paths) == 1:
            raise error
        self._first_problem = self._first_problem or error.problem.partition(" cannot be read: ")[2] or error.problem
        self._skipped.append(path)
        logger.warning("skipped: %s", error.problem)
        if len(self._skipped) == len(self._paths):
            raise FrameSourceError(
                f"{share_of(0, len(self._paths), 'image')} of {self.name} can be read; the last: {error.problem}",
                expected=error.expected or "whole image files",
                fix=error.fix,
            ) from error


def open_folder(folder: Path) -> ImageFiles:
    """Open the images of a folder and of the folders below it, sorted by path.

    Raises:
        FrameSourceError: the folder holds no images, or cannot be listed.
    """
    found = find_images(folder)
    if not found.paths:
        raise FrameSourceError(
            f"the folder {folder} holds no images{f': {found.notice}' if found.notice else ''}",
            expected="files that end in .jpg, .png, .webp or another suffix of an image, in it or in folders below it",
            fix="links to folders are not followed",
        )
    return ImageFiles(found.paths, str(folder), notices=(f"{folder}: {found.notice}",) if found.notice else ())
