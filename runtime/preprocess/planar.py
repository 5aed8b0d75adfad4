"""From the planes of a decoder to a small picture: resized first, then made into colours.

Making colours of a whole frame and resizing them filters three values a pixel. Resizing first filters one value of luma
a pixel, and three for each chroma value, which often covers four pixels. Both give the same sums, because both steps
are linear: swscale gives a chroma value to every pixel that it covers, so ``shared_taps`` filter chroma as its
repetition would be filtered, and each product of chroma is rounded as swscale rounds it (``yuv_colours``) before it is
filtered.

Three things differ from resizing swscale's picture as Pillow does, and make values 1 off, rarely 2:

* The rounding of luma's products is taken in its mean. It is noise that the resize averages.
* Nothing is rounded between the passes.
* A colour that swscale, or Pillow after its first pass, clips at black or white is clipped here after the resize only.
  Next to saturated edges a value can be further off.
"""

from __future__ import annotations

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
from vitedge.runtime.preprocess.yuv_colours import NEUTRAL, Plane, Product, YuvColours


class PlanarResampler:
    """Resizes planes of one size to a window of the resized picture. Not thread-safe: it owns its scratch buffers.

    Args:
        interpolation: any but ``nearest``.
        rows: resize of the rows of luma.
        columns: resize of its columns.
        chroma_steps: rows and columns of pixels that share a chroma value.
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

    def __call__(self, planes: YuvPlanes, reverse: bool, out: Image) -> None:
        """Resize.

        Args:
            planes: of the sizes of this resampler.
            reverse: whether to write RGB instead of BGR.
            out: ``h×w×3``, receives the window.
        """
        colours = planes.colours
        luma = self._filter_luma(planes.y, colours.luma)
        self._filter_chroma_rows(planes, colours)
        for channel, colour in enumerate((self._blue, self._green, self._red)):
            sums = colour.down()
            np.add(sums, luma, out=sums)
            np.clip(sums, 0.0, 255.0, out=sums)
            np.copyto(out[:, :, 2 - channel if reverse else channel], sums[:, 0], casting="unsafe")

    def _filter_luma(self, plane: Plane, product: Product) -> Planes:
        """Return the ``(h, 1, w)`` products of filtered luma, and a half that rounds their sums with chroma."""
        pixels = plane[:, None, self._luma.columns]
        for strip in self._luma.strips:
            np.copyto(strip.pixels, pixels[strip.rows])
            self._luma.across(strip)
        luma = self._luma.down()
        np.multiply(luma, product.coefficient, out=luma)
        return np.add(luma, 0.5 - product.mean_loss - product.coefficient * product.zero, out=luma)

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
    return BandedPasses(across, down, 1, None, strip_bytes=STRIP_BYTES // 4)


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
