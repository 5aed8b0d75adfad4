"""Image files, read with Pillow as timm reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge import extras
from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.image_bounds import BoundedReader, ImageBoundsError, check_content
from vitedge.safety.files import read_bytes, walk_files
from vitedge.safety.limits import IMAGE_BYTES, IMAGE_PIXELS, IMAGE_SIDE, IMAGE_SLOW_PIXELS, IMAGE_WEBP_PIXELS

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats with these suffixes. For others Pillow may run programs, such as Ghostscript."""

_SLOW_DECODERS = frozenset({"bmp_rle", "ppm", "ppm_plain"})
_SLOW_READS = 4
"""Reads of a slow decoder per pixel."""
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True)
class EncodedImage:
    """An image file whose bytes and header were read.

    Attributes:
        path: path of the file.
        content: the whole file.
        size: (height, width) in pixels.
        opened: Pillow's image, not decoded yet.
    """

    path: Path
    content: bytes
    size: tuple[int, int]
    opened: Any

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def decode(self) -> NDArray[np.uint8]:
        """Decode the pixels, or the first frame of an animation. Call it once.

        Returns:
            ``H×W×3`` uint8 in the order RGB; the caller owns it.

        Raises:
            FrameSourceError: the file is damaged.
        """
        with _translated(self.path), self.opened as image:
            image.load()
            return _rgb(image)


def open_image(path: str | Path) -> EncodedImage:
    """Read an image file and its header, without decoding it.

    Raises:
        FrameSourceError: there is no such file, or it is not a regular file, not in one of ``FORMATS``, or exceeds a
            limit of ``vitedge.safety.limits``.
        MissingExtraError: Pillow is not installed.
    """
    pillow = extras.require("PIL.Image", extra="camera", purpose="reading image files")
    with _translated(path):
        content = read_bytes(path, limit=IMAGE_BYTES)
        check_content(content)
        reader = BoundedReader(content)
        try:
            image = pillow.open(reader, formats=FORMATS)
        except pillow.UnidentifiedImageError:
            raise ImageBoundsError("it does not begin like an image") from None
        _check_pixels(image, reader)
    return EncodedImage(Path(path), content, (image.height, image.width), image)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file, in the format of its first bytes, whatever its suffix.

    EXIF orientation is ignored, as in timm's datasets, with which models are trained and evaluated.

    Returns:
        ``H×W×3`` uint8 in the order RGB; the caller owns it.

    Raises:
        FrameSourceError: there is no such file, or it is not an image, is damaged, is a FIFO or device, or is larger
            than ``IMAGE_BYTES`` or ``IMAGE_PIXELS`` of ``vitedge.safety.limits``.
        MissingExtraError: Pillow is not installed.
    """
    return open_image(path).decode()


@contextmanager
def _translated(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FrameSourceError(f"there is no image {path}") from error
    except Exception as error:  # for a damaged file Pillow raises anything, also MemoryError and SyntaxError
        why = str(error) or type(error).__name__
        raise FrameSourceError(
            f"{path} cannot be read: {why}",
            expected=f"a whole image file, one of {', '.join(FORMATS)}",
            fix="replace or remove the file",
        ) from error


def _check_pixels(image: Any, reader: BoundedReader) -> None:
    pixels, most = image.width * image.height, IMAGE_PIXELS
    if any(tile[0] in _SLOW_DECODERS for tile in image.tile):
        most = IMAGE_SLOW_PIXELS
        reader.reads_left += _SLOW_READS * most
    elif image.format == "WEBP":
        most = IMAGE_WEBP_PIXELS
    if pixels > most or max(image.size) > IMAGE_SIDE:
        raise ImageBoundsError(
            f"it has {image.width}x{image.height} pixels; {most} are the most for {image.format} of its kind, "
            f"and {IMAGE_SIDE} for a side"
        )


def _rgb(image: Any) -> NDArray[np.uint8]:
    """Convert the pixels a band of rows at a time, because a copy of a large image would double its memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
    return pixels


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """List the image files of a folder and of the folders below it, without hidden ones, sorted by path.

    Links to files are followed, links to folders are not. FIFOs and devices are left out.

    Raises:
        FrameSourceError: there is no such folder, it cannot be listed, or it is deeper or larger than
            ``vitedge.safety.limits`` allows.
    """
    try:
        names = (entry.path for entry in walk_files(folder))
        return tuple(sorted(path for path in map(Path, names) if path.suffix.lower() in IMAGE_SUFFIXES))
    except OSError as error:
        raise FrameSourceError(
            f"{error.filename} cannot be listed: {error.strerror}", expected="a folder of images"
        ) from error
