"""Image files, through Pillow, as timm reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge import extras
from vitedge.errors import FrameSourceError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file.

    Nothing is rotated by EXIF orientation: timm's data sets do not, and models are trained and evaluated with those.

    Returns:
        ``H×W×3`` uint8 in the order RGB; the caller owns it.

    Raises:
        FrameSourceError: no such file, not an image, or damaged.
        MissingExtraError: Pillow is not installed.
    """
    pillow = extras.require("PIL.Image", extra="camera", purpose="reading image files")
    try:
        with pillow.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise FrameSourceError(f"there is no image {path}") from error
    except Exception as error:
        raise FrameSourceError(
            f"{path} cannot be read: {error}", expected="a whole image file", fix="replace or remove the file"
        ) from error


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """Image files of a folder and of the folders below it, links followed, hidden ones left out, sorted by path.

    Raises:
        FrameSourceError: no such folder, or one that cannot be listed.
    """
    try:
        return tuple(sorted(_walk(Path(folder), frozenset())))
    except OSError as error:
        raise FrameSourceError(
            f"{error.filename} cannot be listed: {error.strerror}", expected="a folder of images"
        ) from error


def _walk(folder: Path, parents: frozenset[Path]) -> Iterator[Path]:
    here = folder.resolve()
    if here in parents:
        return
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        path = Path(entry.path)
        if entry.is_dir():
            yield from _walk(path, parents | {here})
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path
