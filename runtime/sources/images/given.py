"""Images as a caller gives them: pixels, planes, a Pillow image, the path of an image file or its bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from vitedge.errors import FrameSourceError
from vitedge.prediction import Image
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.images.pillow import exif_orientation, is_pillow_image, rgb_pixels
from vitedge.runtime.sources.images.reading import (
    EncodedImage,
    NoImageError,
    StoredImage,
    open_encoded,
    open_image,
)
from vitedge.safety.redact import redact_address

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

AnyImage: TypeAlias = Union[
    Image, YuvPlanes, "PillowImage", str, "os.PathLike[str]", bytes, bytearray, "memoryview[int]"
]

_ADDRESS = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*://|data:)")
ADDRESS_CHARACTERS = 80
"""Characters of a refused address that an error shows."""


def stored_image(image: AnyImage) -> StoredImage | None:
    """Decode an image file or a Pillow image, as the images of a folder are decoded; None for pixels and planes.

    Raises:
        FrameSourceError: there is no such file, it is not an image, is damaged, has values beyond 8 bits or exceeds a
            limit of ``vitedge.safety.limits``; or the path is an address or a folder.
        MissingExtraError: Pillow is not installed.
    """
    if isinstance(image, (np.ndarray, YuvPlanes)):
        return None
    if isinstance(image, (str, os.PathLike)):
        return _open_path(os.fsdecode(image)).decode()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _open_bytes(image).decode()
    if is_pillow_image(image):
        image.load()
        return StoredImage(rgb_pixels(image), exif_orientation(image))
    return None


def _open_path(path: str) -> EncodedImage:
    if _ADDRESS.match(path):
        raise FrameSourceError(
            f"{redact_address(path)[:ADDRESS_CHARACTERS]!r} is an address",
            expected="the path of an image file, or its bytes",
            fix="download an image and pass its bytes; for a camera or a video: classifier.stream(address)",
        )
    if os.path.isdir(path):  # noqa: PTH112  # a name may be too long for the system
        raise FrameSourceError(
            f"{path} is a folder", expected="the path of an image file", fix="classifier.stream(folder)"
        )
    with _hint("for the frames of a video: classifier.stream(path)"):
        return open_image(path)


def _open_bytes(data: bytes | bytearray | memoryview[int]) -> EncodedImage:
    with _hint("for bytes of pixels: np.frombuffer(data, np.uint8).reshape(height, width, 3)"):
        return open_encoded(data, f"an image of {memoryview(data).nbytes} bytes")


@contextmanager
def _hint(fix: str) -> Iterator[None]:
    """Say what to do with something that is no image file."""
    try:
        yield
    except FrameSourceError as error:
        if not isinstance(error.__cause__, NoImageError):
            raise
        raise FrameSourceError(error.problem, expected=error.expected, fix=fix) from error
