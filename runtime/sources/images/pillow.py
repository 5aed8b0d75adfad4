"""Which files Pillow opens as images, and how its images become RGB as in timm and Transformers."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge import extras
from vitedge.errors import FrameSourceError, MissingExtraError

COMMON_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes that are images even where Pillow is missing, so that its absence is told."""
REFUSED_FORMATS = frozenset({"EPS", "IPTC", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
"""EPS runs Ghostscript, IPTC opens what it holds in any format, and Pillow has no decoder for the others."""
PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
"""Packages that teach Pillow further formats, and the function that registers them."""

_JPEGS = "MPO"
"""Several JPEGs in one file; Pillow opens them by the format of the first."""
_ORIENTATION_TAG = 0x0112
_BAND_PIXELS = 1 << 20
_WHITE = 255
_WIDE_MODES = ("I", "F")


def _pillow() -> Any:
    """Import Pillow with all its formats, and its plug-ins where they are installed."""
    pillow = extras.require("PIL.Image", extra="camera", purpose="reading image files")
    _register_formats(pillow)
    return pillow


@cache
def _register_formats(pillow: Any) -> None:
    pillow.init()
    for package, register in PLUGINS.items():
        if importlib.util.find_spec(package) is not None:
            module = importlib.import_module(package)
            if register:
                getattr(module, register)()


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case: all that Pillow can decode without running a program."""
    try:
        pillow = _pillow()
    except MissingExtraError:
        return COMMON_SUFFIXES
    decodable = {*_decodable(pillow), _JPEGS}
    return frozenset(suffix for suffix, name in pillow.EXTENSION.copy().items() if name in decodable)


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Return whether the suffix of a path is the suffix of an image."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122  # paths may have any characters
    return suffix in COMMON_SUFFIXES or suffix in image_suffixes()


def open_formats(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the formats that a file may have.

    Any format with a magic number is recognized whatever the suffix. A format without one, such as TGA, accepts nearly
    any bytes, and is tried only for its own suffix.
    """
    pillow = _pillow()
    own = pillow.EXTENSION.get(os.path.splitext(path)[1].lower())  # noqa: PTH122
    decodable = _decodable(pillow)
    with_magic = [name for name in decodable if pillow.OPEN[name][1] is not None and name != own]
    return (*([own] if own in decodable else []), *with_magic)


def has_python_decoder(image: Any) -> bool:
    """Return whether Pillow decodes an opened image in Python, which is slow."""
    return any(tile[0] in _pillow().DECODERS for tile in image.tile)


def _decodable(pillow: Any) -> list[str]:
    """Return the names of the formats; another thread may register more of them meanwhile."""
    return [name for name in pillow.OPEN.copy() if name not in REFUSED_FORMATS]


def is_pillow_image(value: object) -> bool:
    """Return whether a value is a Pillow image, without importing Pillow.

    The class tells, not the module in ``sys.modules``, which another thread may be half-way through importing.
    """
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def exif_orientation(image: Any) -> int:
    """Return the EXIF orientation of a decoded Pillow image; 1 if it states none.

    Pillow turns a TIFF itself while it decodes it, as it does for timm, and forgets the orientation.
    """
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    return orientation if isinstance(orientation, int) else 1


def rgb_pixels(image: Any) -> NDArray[np.uint8]:
    """Convert a Pillow image of any mode to RGB, as timm and Transformers do, by ``convert("RGB")``.

    Returns:
        ``H×W×3`` uint8; the caller owns it.

    Raises:
        FrameSourceError: the conversion would clip values beyond 8 bits to white or black.
    """
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        _check_range(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, band in _bands(image):
        pixels[top : top + band.height] = np.asarray(band.convert("RGB"))
    return pixels


def _bands(image: Any) -> Iterator[tuple[int, Any]]:
    """Yield the image a band of rows at a time, because a copy of a large image would double its memory."""
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _check_range(image: Any) -> None:
    """Refuse values that ``convert("RGB")`` clips: it does not scale 16 bits, 32 bits or floats."""
    lows, highs = [], []
    for _, band in _bands(image):
        values = np.asarray(band)
        lows.append(float(values.min()))
        highs.append(float(values.max()))
    low, high = min(lows), max(highs)  # NaN stays NaN, and fits no range
    unit = image.mode == "F" and 0.0 < high <= 1.0
    if not (low >= 0.0 and high <= _WHITE) or unit or np.isnan([*lows, *highs]).any():
        raise FrameSourceError(
            f"the image has the mode {image.mode} with values from {low:g} to {high:g}, which timm and Transformers "
            "would clip to black and white instead of scaling them to 8 bits",
            expected="values from 0 to 255",
            fix=f"save it with 8 bits a channel, scaled as the images that the model was trained on: {_scaling(high)}",
        )


def _scaling(high: float) -> str:
    factor = "* 255" if high <= 1 else f"/ {65535 if high > 4095 else 4095} * 255"
    return f"Image.fromarray((np.asarray(image) {factor}).round().astype(np.uint8)), for example"
