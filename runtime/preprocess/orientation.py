"""The eight orientations of EXIF, applied as Pillow's ``exif_transpose`` applies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.counts import counted
from vitedge.prediction import Image

AS_STORED = 1
"""Orientation of an image that is shown as it is stored."""

_TURNS: Mapping[int, Callable[[Image], Image]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}
_OF_MATRIX: Mapping[tuple[int, ...], int] = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def turned(image: Image, orientation: int) -> Image:
    """Turn an ``H×W×3`` image by its EXIF orientation; an unknown one changes nothing, as in Pillow.

    Returns:
        A contiguous copy, or the image itself where nothing is turned.
    """
    turn = _TURNS.get(orientation)
    return image if turn is None else np.ascontiguousarray(turn(image))


def oriented(image: Image, orientation: int, preprocessing: Preprocessing) -> Image:
    """Turn an ``H×W×3`` image by its EXIF orientation, if the preprocessing asks for it."""
    return turned(image, orientation) if preprocessing.exif_orientation else image


def orientation_of_matrix(matrix: Sequence[int]) -> int:
    """Return the EXIF orientation of a video by its display matrix.

    Args:
        matrix: its nine numbers, by which a video is shown turned, mirrored or scaled.

    Returns:
        1 for an angle that is no multiple of 90 degrees.
    """
    turns = [matrix[place] for place in (0, 1, 3, 4)]
    largest = max(max(abs(each) for each in turns), 1)
    return _OF_MATRIX.get(tuple(round(each / largest) for each in turns), AS_STORED)


def is_turned(orientation: int) -> bool:
    """Return whether an image of this EXIF orientation is shown otherwise than it is stored."""
    return orientation in _TURNS


def orientation_notice(count: int, subject: str, preprocessing: Preprocessing) -> str:
    """Describe what became of images that state an orientation.

    Args:
        count: number of them.
        subject: name of the folder, video or dataset.
        preprocessing: of the model.
    """
    rule = "turned by it, as Transformers does" if preprocessing.exif_orientation else "read as stored, as timm does"
    images = counted(count, "image states an orientation, and was", "images state an orientation, and were")
    return f"{subject}: {images} {rule}"
