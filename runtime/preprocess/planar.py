"""From the planes of a decoder to a small picture: resized first, then made into colours.

Making colours of a whole frame and resizing them filters three values a pixel. Resizing first filters one value of luma
a pixel, and three for each chroma value, which often covers four pixels. Both give the same sums, because both steps
are linear: swscale gives a chroma value to every pixel that it covers, so ``shared_taps`` filter chroma as its
repetition would be filtered, and each product of chroma is rounded as swscale rounds it (``yuv_colours``) before it is
filtered.

Clipping is not linear: a frame with many colours far beyond black or white becomes colours first. Other frames differ
from swscale's picture, resized as Pillow does, by at most 1, and by more only next to the few colours that are clipped.
Apart from them, the rounding of luma's products is taken in its mean, and nothing is rounded between the passes.
"""

from __future__ import annotations

import math

import numpy as np

from vitedge.bundle.preprocessing import Interpolation
from vitedge.prediction import Image
from vitedge.runtime.preprocess.pillow_resample import (
    FILTERS,
    STRIP_BYTES,
    BandedPasses,
    Planes,
    ResizeAxis,
    Strip,
    Taps,
    pillow_taps,
    shared_taps,
)
from vitedge.runtime.preprocess.planes import ChromaStep, YuvPlanes
from vitedge.runtime.preprocess.yuv_colours import NEUTRAL, ONE_LEVEL, Plane, Product, YuvColours

CHECKED_PIXELS = 4096
"""Pixels of a frame that are checked for colours beyond black and white, at least."""
FAR_BEYOND = 4
"""Levels beyond black or white from which clipping can make a value of the result more than 1 off."""
CLIPPED_SHARE = 1 / 500
"""Share of the checked pixels up to which colours far beyond are left to the end; in photos of saturated flowers, three
times as many pixels are then more than 1 off."""
BLOCK_SIZES = (16,)
"""Number of outputs in a block of the first pass: with one channel, larger products pay."""


class PlanarResampler:
    """Resizes planes of one size to a window of the resized picture. Not thread-safe: it owns its scratch buffers.

    Args:
        interpolation: any but ``nearest``.
        rows: resize of the rows of luma, an even number of them if two share chroma.
        columns: resize of its columns, likewise.
        chroma_steps: rows and columns of pixels that share a chroma value, 1 or 2 each.
    """

    def __init__(
        self,
        interpolation: Interpolation,
        rows: ResizeAxis,
        columns: ResizeAxis,
        chroma_steps: tuple[ChromaStep, ChromaStep],
    ) -> None:
        down, across = (pillow_taps(FILTERS[interpolation], axis) for axis in (rows, columns))
        shared_down, shared_across = map(shared_taps, (down, across), chroma_steps)
        self._luma = _passes(across, down)
        self._blue, self._green, self._red = (_passes(shared_across, shared_down) for _ in range(3))
        self._u, self._v = _Differences(self._blue), _Differences(self._red)
        self._products = np.empty_like(self._green.strips[0].lines)
        self._checked = _Checked(self._blue, chroma_steps)

    def __call__(self, planes: YuvPlanes, reverse: bool, out: Image) -> bool:
        """Resize, unless too many colours lie far beyond black or white.

        Args:
            planes: of the sizes of this resampler.
            reverse: whether to write RGB instead of BGR.
            out: ``h×w×3``, receives the window.

        Returns:
            Whether ``out`` was written.
        """
        colours = planes.colours
        if self._checked.are_clipped(planes, colours):
            return False
        luma = self._filter_luma(planes.y, colours.luma)
        self._filter_chroma_rows(planes, colours)
        for channel, colour in enumerate((self._blue, self._green, self._red)):
            sums = colour.down()
            np.add(sums, luma, out=sums)
            np.clip(sums, 0.0, 255.0, out=sums)
            np.copyto(out[:, :, 2 - channel if reverse else channel], sums[:, 0], casting="unsafe")
        return True

    def _filter_luma(self, plane: Plane, product: Product) -> Planes:
        """Return the ``(h, 1, w)`` products of filtered luma, and a half that rounds their sums with chroma."""
        pixels = plane[:, None, self._luma.columns]
        for strip in self._luma.strips:
            np.copyto(strip.pixels, pixels[strip.rows])
            self._luma.across(strip)
        luma = self._luma.down()
        np.multiply(luma, product.coefficient, out=luma)
        return np.add(luma, product.mean_offset + 0.5, out=luma)

    def _filter_chroma_rows(self, planes: YuvPlanes, colours: YuvColours) -> None:
        for blue, green, red in zip(self._blue.strips, self._green.strips, self._red.strips, strict=True):
            u, v = self._u.read(planes.u, blue), self._v.read(planes.v, red)
            colours.blue_in_blue.of(u, out=blue.lines)
            colours.red_in_red.of(v, out=red.lines)
            products = self._products[: len(green.lines)]
            colours.blue_in_green.of(u, out=products)
            colours.red_in_green.of(v, out=green.lines)
            np.add(green.lines, products, out=green.lines)
            self._blue.across(blue)
            self._green.across(green)
            self._red.across(red)


def _passes(across: Taps, down: Taps) -> BandedPasses:
    """Make the passes over one plane; several buffers of a strip share the cache."""
    return BandedPasses(across, down, 1, None, strip_bytes=STRIP_BYTES // 4, sizes=BLOCK_SIZES)


class _Differences:
    """The values of a chroma plane without their zero, a strip at a time, in the layout of the strip's ``lines``.

    NumPy computes with whole lines three times as fast as with their middles, and numbers beside the pixels do no harm.

    Args:
        passes: filter the plane.
    """

    def __init__(self, passes: BandedPasses) -> None:
        self._columns = passes.columns
        self._values: Planes = np.zeros_like(passes.strips[0].lines)
        self._pixels = self._values[:, 0, passes.inside]
        self._differences: Planes = np.empty_like(self._values)

    def read(self, plane: Plane, strip: Strip) -> Planes:
        """Return the values of a strip, ``(rows, 1, inputs)``."""
        count = len(strip.lines)
        np.copyto(self._pixels[:count], plane[strip.rows, self._columns])
        return np.subtract(self._values[:count], NEUTRAL, out=self._differences[:count])


class _Checked:
    """A part of the pixels of the window, in equal distances, which tells whether many colours are clipped.

    Args:
        passes: filter the products of chroma of one colour.
        chroma_steps: rows and columns of pixels that share a chroma value.
    """

    def __init__(self, passes: BandedPasses, chroma_steps: tuple[ChromaStep, ChromaStep]) -> None:
        rows = slice(passes.strips[0].rows.start, passes.strips[-1].rows.stop)
        columns = passes.columns
        every = max(1, math.isqrt((rows.stop - rows.start) * (columns.stop - columns.start) // CHECKED_PIXELS))
        self._chroma = (slice(rows.start, rows.stop, every), slice(columns.start, columns.stop, every))
        self._luma = tuple(
            slice(step * axis.start, step * axis.stop, step * every)
            for step, axis in zip(chroma_steps, (rows, columns), strict=True)
        )

    def are_clipped(self, planes: YuvPlanes, colours: YuvColours) -> bool:
        """Return whether too many of the pixels have a colour far beyond black or white."""
        luma = colours.luma.table[planes.y[self._luma]]
        sums = np.stack(colours.of_chroma(planes.u[self._chroma], planes.v[self._chroma])) + luma
        beyond = (sums < -FAR_BEYOND * ONE_LEVEL) | (sums > (255 + FAR_BEYOND) * ONE_LEVEL)
        return bool(np.count_nonzero(beyond, axis=(1, 2)).max() > CLIPPED_SHARE * luma.size)
