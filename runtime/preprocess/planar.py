"""From the planes of a decoder to a small picture: resized first, then made into colours.

Making colours of a whole frame and resizing them filters three values a pixel. Resizing first filters one value of luma
a pixel, and three for each chroma value, which often covers four pixels. Both give the same sums, because both steps
are linear: swscale gives a chroma value to every pixel that it covers, so ``shared_taps`` filter chroma as its
repetition would be filtered, and each product of chroma is rounded as swscale rounds it (``yuv_colours``) before it is
filtered.

Clipping is not linear. Where more than a few colours of a frame lie beyond black or white, what clipping takes from
them is computed for each chroma value and the mean of its luma, and taken from the products of chroma. That is near
enough if many chroma values are averaged. Otherwise such a frame becomes colours first.

Three approximations make values 1 off, rarely more: the clipping; the rounding of luma's products, taken in its mean;
and the rounding and the clipping between Pillow's passes, left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
from vitedge.runtime.preprocess.yuv_colours import NEUTRAL, WHITE, Plane, Product, YuvColours

CLIPPING_SHRINK = 3.75
"""From this ratio on, so many chroma values are averaged that at most 1 % of the pixels of photos of saturated flowers
are more than 1 off."""
CHECKED_EVERY = 8
"""Rows and columns of chroma of which one is checked for clipping."""
CLIPPED_SHARE = 1 / 200
"""Share of the checked pixels up to which clipping is left to the end; as many pixels may be more than 1 off."""
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
        self._clipping = _Clipping(self._blue, chroma_steps)
        self._computes_clipping = all(axis.source >= CLIPPING_SHRINK * axis.resized for axis in (rows, columns))

    def __call__(self, planes: YuvPlanes, reverse: bool, out: Image) -> bool:
        """Resize, unless clipping makes the picture more than 1 off in too many pixels.

        Args:
            planes: of the sizes of this resampler.
            reverse: whether to write RGB instead of BGR.
            out: ``h×w×3``, receives the window.

        Returns:
            Whether ``out`` was written.
        """
        colours = planes.colours
        clipped = self._clipping.clipped_rows(planes, colours)
        if clipped.any() and not self._computes_clipping:
            return False
        luma = self._filter_luma(planes.y, colours.luma)
        self._filter_chroma_rows(planes, colours, clipped)
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

    def _filter_chroma_rows(self, planes: YuvPlanes, colours: YuvColours, clipped: NDArray[np.bool_]) -> None:
        top = self._blue.strips[0].rows.start
        for blue, green, red in zip(self._blue.strips, self._green.strips, self._red.strips, strict=True):
            u, v = self._u.read(planes.u, blue), self._v.read(planes.v, red)
            colours.blue_in_blue.of(u, out=blue.lines)
            colours.red_in_red.of(v, out=red.lines)
            products = self._products[: len(green.lines)]
            colours.blue_in_green.of(u, out=products)
            colours.red_in_green.of(v, out=green.lines)
            np.add(green.lines, products, out=green.lines)
            checked = slice((blue.rows.start - top) // CHECKED_EVERY, -(-(blue.rows.stop - top) // CHECKED_EVERY))
            if clipped[checked].any():
                self._clipping.apply(planes.y, colours.luma, blue.rows, (blue.lines, green.lines, red.lines))
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


class _Clipping:
    """What clipping at black and white takes from colours.

    Args:
        passes: filter the products of chroma of one colour.
        chroma_steps: rows and columns of pixels that share a chroma value.
    """

    def __init__(self, passes: BandedPasses, chroma_steps: tuple[ChromaStep, ChromaStep]) -> None:
        self._steps = chroma_steps
        self._diagonal = [(at % chroma_steps[0], at % chroma_steps[1]) for at in range(max(chroma_steps))]
        self._rows = slice(passes.strips[0].rows.start, passes.strips[-1].rows.stop)
        self._columns = passes.columns
        lines = passes.strips[0].lines
        self._values: list[Planes] = [np.zeros_like(lines) for _ in self._diagonal]
        self._pixels = [values[:, 0, passes.inside] for values in self._values]
        self._luma: Planes = np.empty_like(lines)

    def clipped_rows(self, planes: YuvPlanes, colours: YuvColours) -> NDArray[np.bool_]:
        """Find out where pixels of the window are clipped, from a part of them.

        Returns:
            ``(rows of chroma / CHECKED_EVERY,)``: whether a pixel of these rows is clipped; all False if only a few of
            the window are.
        """
        every = (slice(None, None, CHECKED_EVERY),) * 2
        u, v = (plane[self._rows, self._columns][every] for plane in (planes.u, planes.v))
        luma = colours.luma.table[self._covered(planes.y, self._rows, (0, 0))[every]]
        sums = [chroma + luma for chroma in colours.of_chroma(u, v)]
        clipped = [(each < 0) | (each > WHITE) for each in sums]
        if all(np.count_nonzero(each) <= CLIPPED_SHARE * luma.size for each in clipped):
            return np.zeros(len(luma), np.bool_)
        blue, green, red = clipped
        return np.asarray((blue | green | red).any(axis=1))

    def apply(self, plane: Plane, product: Product, rows: slice, chroma: tuple[Planes, ...]) -> None:
        """Take from products of chroma what clipping takes from their sums with luma, its mean over two pixels of four.

        Args:
            plane: luma.
            product: of luma.
            rows: rows of chroma.
            chroma: ``(rows, 1, inputs)`` products of chroma for each colour, to be changed.
        """
        count = rows.stop - rows.start
        for at, pixels in zip(self._diagonal, self._pixels, strict=True):
            np.copyto(pixels[:count], self._covered(plane, rows, at))
        first, *others = (values[:count] for values in self._values)
        luma = self._luma[:count]
        for values in others:
            first = np.add(first, values, out=luma)
        np.multiply(first, product.coefficient / len(self._diagonal), out=luma)
        np.add(luma, product.mean_offset, out=luma)
        for lines in chroma:
            np.add(lines, luma, out=lines)
            np.clip(lines, 0.0, 255.0, out=lines)
            np.subtract(lines, luma, out=lines)

    def _covered(self, plane: Plane, rows: slice, at: tuple[int, int]) -> Plane:
        """Return one of the luma values that each chroma value of the window covers."""
        (row_step, column_step), (row, column) = self._steps, at
        above = slice(row_step * rows.start + row, row_step * rows.stop, row_step)
        left = slice(column_step * self._columns.start + column, column_step * self._columns.stop, column_step)
        return plane[above, left]
