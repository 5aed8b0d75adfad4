"""``YuvPlanes``: a picture as a video decoder gives it, luma and chroma apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vitedge.errors import FrameSourceError
from vitedge.prediction import Image
from vitedge.runtime.preprocess.yuv_colours import FRACTION_BITS, ROUNDS_DOWN, YuvColours, yuv_colours
from vitedge.runtime.preprocess.yuv_colours import Matrix as Matrix
from vitedge.runtime.preprocess.yuv_colours import Plane as Plane
from vitedge.safety.limits import IMAGE_SIDE

ChromaStep = Literal[1, 2, 4]
"""Pixels that share a chroma value, along one axis."""

CHROMA_STEPS: tuple[ChromaStep, ...] = get_args(ChromaStep)
MATRICES: tuple[Matrix, ...] = get_args(Matrix)

_HALF = 1 << FRACTION_BITS - 1
_UINT8 = np.dtype(np.uint8)
_BAND_ROWS = 32
"""Rows that are converted together, so that their colours stay in the cache; a multiple of every ``ChromaStep``."""


@dataclass(frozen=True, eq=False)
class YuvPlanes:
    """A picture as three planes of 8 bits, of any strides; nobody may write into them any more.

    Attributes:
        y: ``H×W`` luma.
        u: ``ceil(H / sy)×ceil(W / sx)`` blue difference, where ``sy`` and ``sx`` are 1, 2 or 4.
        v: red difference, of the shape of ``u``.
        matrix: how colours were turned into luma and chroma.
        full_range: whether luma goes from 0 to 255, as in JPEG, and not from 16 to 235.

    Raises:
        FrameSourceError: a plane is not a two-dimensional uint8 array, is empty, or has a side over ``IMAGE_SIDE``; or
            the planes do not fit each other.
    """

    y: Plane
    u: Plane
    v: Plane
    matrix: Matrix = "bt601"
    full_range: bool = False

    def __post_init__(self) -> None:
        for name, plane in (("luma", self.y), ("blue difference", self.u), ("red difference", self.v)):
            _check_plane(name, plane)
        steps = [_fitting_step(*sides) for sides in zip(self.y.shape, self.u.shape, strict=True)]
        if self.u.shape != self.v.shape or None in steps:
            raise FrameSourceError(
                f"the planes of {self.y.shape}, {self.u.shape} and {self.v.shape} do not fit each other",
                expected="a chroma value for each 1, 2 or 4 luma values of a row and of a column",
            )
        if self.matrix not in MATRICES:
            raise FrameSourceError(f"the colour matrix is {self.matrix!r}", expected=f"one of {', '.join(MATRICES)}")

    @property
    def height(self) -> int:
        """Return the number of rows of the picture."""
        return int(self.y.shape[0])

    @property
    def width(self) -> int:
        """Return the number of columns of the picture."""
        return int(self.y.shape[1])

    @property
    def chroma_steps(self) -> tuple[ChromaStep, ChromaStep]:
        """Return the numbers of rows and of columns of pixels that share a chroma value."""
        rows, columns = (_fitting_step(*sides) or 1 for sides in zip(self.y.shape, self.u.shape, strict=True))
        return rows, columns

    @property
    def repeats_chroma(self) -> bool:
        """Return whether swscale gives a chroma value to every pixel that it covers; else it interpolates chroma."""
        rows, columns = self.chroma_steps
        return columns == rows == 1 or (columns == 2 and rows <= 2 and self.height % 2 == self.width % 2 == 0)

    @property
    def colours(self) -> YuvColours:
        """Return the conversion to colours that swscale uses for a picture of these sizes."""
        whole = self.chroma_steps[1] == 1 or (self.width % 2 == 1 and self.height % 2 == 1)
        return yuv_colours(self.matrix, full_range=self.full_range, rounds_down=ROUNDS_DOWN and not whole)

    @property
    def decoder_frame(self) -> Any:
        """Return PyAV's ``VideoFrame`` that holds the planes; None if they do not come from a decoder."""
        return None

    def bgr(self) -> Image:
        """Return the picture as a new ``H×W×3`` uint8 array; each chroma value colours the pixels that it covers."""
        out, colours = np.empty((self.height, self.width, 3), np.uint8), self.colours
        rows, columns = self.chroma_steps
        for top in range(0, self.height, _BAND_ROWS):
            band = out[top : top + _BAND_ROWS]
            luma = colours.luma.table[self.y[top : top + _BAND_ROWS]] + _HALF
            chroma = slice(top // rows, top // rows + -(-len(band) // rows))
            for channel, sums in enumerate(colours.of_chroma(self.u[chroma], self.v[chroma])):
                whole = sums.repeat(rows, axis=0).repeat(columns, axis=1)[: len(band), : self.width] + luma
                np.clip(whole >> FRACTION_BITS, 0, 255, out=band[:, :, channel], casting="unsafe")
        return out


def _check_plane(name: str, plane: object) -> None:
    if (
        isinstance(plane, np.ndarray)
        and plane.dtype == _UINT8
        and plane.ndim == 2
        and plane.size > 0
        and max(plane.shape) <= IMAGE_SIDE
    ):
        return
    found = f"a {plane.dtype} array of shape {plane.shape}" if isinstance(plane, np.ndarray) else type(plane).__name__
    raise FrameSourceError(
        f"the plane of the {name} is {found}", expected=f"HxW uint8, neither empty nor longer than {IMAGE_SIDE} pixels"
    )


def _fitting_step(luma: int, chroma: int) -> ChromaStep | None:
    """Return how many of ``luma`` values share one of ``chroma`` values; None if the sizes do not fit."""
    return next((step for step in CHROMA_STEPS if -(-luma // step) == chroma), None)
