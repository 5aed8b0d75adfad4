"""Image files, read with Pillow as timm reads them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge import extras
from vitedge.counts import counted
from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.images.bounds import BoundedReader, ImageBoundsError, check_content
from vitedge.runtime.sources.images.pillow import (
    COMMON_SUFFIXES,
    exif_orientation,
    has_python_decoder,
    image_suffixes,
    open_formats,
    rgb_pixels,
)
from vitedge.safety.files import read_bytes, walk_files
from vitedge.safety.limits import IMAGE_BYTES, IMAGE_PIXELS, IMAGE_SIDE, IMAGE_SLOW_PIXELS, IMAGE_WEBP_PIXELS

SUFFIXES_NAMED = 12
"""Suffixes of other files that a notice counts one by one."""
_SLOW_READS = 4
"""Reads of a slow decoder per pixel."""
_HELD_OFTEN = frozenset({"AVIF", "HEIF", "JPEG2000", "WEBP"})
"""Formats whose decoders hold a frame several times."""


class NoImageError(ImageBoundsError):
    """A file is not of any format that Pillow decodes."""


@dataclass(frozen=True)
class StoredImage:
    """The pixels of an image file as they are stored, and how the file says that they are shown.

    Attributes:
        pixels: ``H×W×3`` uint8 in the order RGB; the receiver owns it.
        orientation: EXIF orientation, 1…8; 1 shows the pixels as they are stored.
    """

    pixels: NDArray[np.uint8]
    orientation: int


@dataclass(frozen=True)
class EncodedImage:
    """An image file whose bytes and header were read.

    Attributes:
        name: path of the file, or its name in errors.
        content: the whole file.
        size: (height, width) in pixels.
        opened: Pillow's image, not decoded yet.
    """

    name: str
    content: bytes
    size: tuple[int, int]
    opened: Any

    @property
    def sha256(self) -> str:
        """Return the hex SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def decode(self) -> StoredImage:
        """Decode the image, or the first frame of an animation. Call it once.

        Raises:
            FrameSourceError: the file is damaged, or has values beyond 8 bits (``rgb_pixels``).
        """
        with _translated(self.name), self.opened as image:
            image.load()
            _check_size(image, IMAGE_PIXELS)  # an icon may hold a larger image than it declares
            return StoredImage(rgb_pixels(image), exif_orientation(image))


def open_image(path: str | Path) -> EncodedImage:
    """Read an image file and its header, without decoding it.

    Raises:
        FrameSourceError: there is no such file, or it is not a regular file, not an image that Pillow decodes, or
            exceeds a limit of ``vitedge.safety.limits``.
        MissingExtraError: Pillow is not installed.
    """
    formats = open_formats(path)
    with _translated(path):
        return _opened(str(path), read_bytes(path, limit=IMAGE_BYTES), formats)


def open_encoded(content: bytes | bytearray | memoryview[int], name: str) -> EncodedImage:
    """Read the header of an image file that is in memory; ``name`` is its name in errors.

    Raises:
        FrameSourceError: the bytes are not an image that Pillow decodes, or exceed a limit of
            ``vitedge.safety.limits``.
        MissingExtraError: Pillow is not installed.
    """
    formats = open_formats("")
    with _translated(name):
        size = memoryview(content).nbytes
        if size > IMAGE_BYTES:
            raise ImageBoundsError(f"it has {size} bytes; vitedge reads at most {IMAGE_BYTES}")
        return _opened(name, bytes(content), formats)


def _opened(name: str, content: bytes, formats: tuple[str, ...]) -> EncodedImage:
    pillow = extras.require("PIL.Image", extra="camera", purpose="reading image files")
    check_content(content)
    reader = BoundedReader(content)
    try:
        image = pillow.open(reader, formats=formats)
    except pillow.UnidentifiedImageError:
        raise NoImageError("it does not begin like an image") from None
    _check_pixels(image, reader)
    return EncodedImage(name, content, (image.height, image.width), image)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file, in the format of its first bytes, whatever its suffix.

    The pixels are not turned by their EXIF orientation. Use ``open_image`` where a model may ask for that.

    Returns:
        ``H×W×3`` uint8 in the order RGB; the caller owns it.

    Raises:
        FrameSourceError: there is no such file, or it is not an image, is damaged, is a FIFO or device, or is larger
            than ``IMAGE_BYTES`` or ``IMAGE_PIXELS`` of ``vitedge.safety.limits``.
        MissingExtraError: Pillow is not installed.
    """
    return open_image(path).decode().pixels


@contextmanager
def _translated(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FrameSourceError(f"there is no image {path}", expected="the path of an image file") from error
    except FrameSourceError as error:  # of a mode with values beyond 8 bits
        raise FrameSourceError(
            f"{path} cannot be read: {error.problem}", expected=error.expected, fix=error.fix
        ) from error
    except Exception as error:  # for a damaged file Pillow raises anything, also MemoryError and SyntaxError
        why = str(error) or type(error).__name__
        raise FrameSourceError(
            f"{path} cannot be read: {why}",
            expected="a whole image file that Pillow can decode, such as JPEG, PNG, TIFF or WebP",
            fix="replace or remove the file",
        ) from error


def _check_pixels(image: Any, reader: BoundedReader) -> None:
    most = IMAGE_PIXELS
    if has_python_decoder(image):
        most = IMAGE_SLOW_PIXELS
        reader.reads_left += _SLOW_READS * most
    elif image.format in _HELD_OFTEN:
        most = IMAGE_WEBP_PIXELS
    _check_size(image, most)


def _check_size(image: Any, most: int) -> None:
    if image.width * image.height > most or max(image.size) > IMAGE_SIDE:
        raise ImageBoundsError(
            f"it has {image.width}x{image.height} pixels; {most} are the most for {image.format} of its kind, "
            f"and {IMAGE_SIDE} for a side"
        )


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder, and what else lies in it.

    Attributes:
        paths: the images, sorted by path.
        others: number of the files that are no images by their names, by suffix; and of hidden files, links to folders
            and devices, which are left out.
    """

    paths: tuple[Path, ...]
    others: Mapping[str, int]

    @property
    def notice(self) -> str:
        """Count the other files by suffix in a phrase; empty if there are none."""
        if not self.others:
            return ""
        counts = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{count} {kind}" for kind, count in counts[:SUFFIXES_NAMED])
        rest = sum(count for _, count in counts[SUFFIXES_NAMED:])
        total = sum(self.others.values())
        subject = counted(total, "file is no image and was", "files are no images and were")
        return f"{subject} not read: {listed}{f', {rest} others' if rest else ''}"


def find_images(folder: str | Path) -> FoundImages:
    """Find the image files of a folder and of the folders below it, without hidden ones.

    Links to files are followed, links to folders are not. FIFOs and devices are left out.

    Raises:
        FrameSourceError: there is no such folder, it cannot be listed, or it is deeper or larger than
            ``vitedge.safety.limits`` allows.
    """
    images: list[Path] = []
    others: Counter[str] = Counter()
    suffixes = COMMON_SUFFIXES | image_suffixes()
    try:
        for entry in walk_files(folder, left_out=others):
            suffix = Path(entry.name).suffix.lower()
            if suffix in suffixes:
                images.append(Path(entry.path))
            else:
                others[suffix or "without a suffix"] += 1
    except OSError as error:
        raise FrameSourceError(
            f"{error.filename} cannot be listed: {error.strerror}", expected="a folder of images"
        ) from error
    return FoundImages(tuple(sorted(images)), others)


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """List the image files of a folder; arguments and errors as for ``find_images``."""
    return find_images(folder).paths
