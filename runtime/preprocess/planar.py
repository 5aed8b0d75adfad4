"""From the planes of a decoder to a small picture: resized first, then made into colours.

Making colours of a whole frame and resizing them filters three values a pixel. Resizing first filters one value of luma
a pixel, and three for each chroma value, which often covers four pixels. Both give the same sums, because both steps
are linear: swscale gives a chroma value to every pixel that it covers, so ``shared_taps`` filter chroma as its
repetition would be filtered, and each product is rounded as swscale rounds it (``yuv_colours``) before it is filtered.
Columns are filtered first, because fewer sums remain for the rows, and nothing is rounded in between.

Clipping is not linear. Where colours lie far beyond black or white, what clipping takes from the pixels of a chroma
value is added to its product, in the mean (``_Clipping``). Other frames differ from swscale's picture, resized as
Pillow does, by at most 1, and by more only next to the colours that are clipped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Interpolation
from vitedge.prediction import Image
from vitedge.runtime.preprocess.banded import ColumnFilter, LineFilter, Strip, Values, lines_at_once
from vitedge.runtime.preprocess.planes import ChromaStep, YuvPlanes
from vitedge.runtime.preprocess.taps import FILTERS, ResizeAxis, Taps, pillow_taps, shared_taps
from vitedge.runtime.preprocess.yuv_colours import NEUTRAL, ColourTerm, Plane, YuvColours

Mask: TypeAlias = NDArray[np.bool_]

CHECKED_PIXELS = 4096
"""Pixels of a frame that are checked for colours beyond black and white, at least."""
FAR_BEYOND = 5
"""Levels beyond black or white from which clipping makes many values of the result more than 1 off."""
CLIPPED_SHARES = ((4.0, 1.0), (2.5, 1 / 20), (0.0, 1 / 500))
"""How much both sides shrink at least, and the share of checked pixels that may lie far beyond; up to it, 99 % of the
pixels are within 1. Measured on photos whose colours were made up to 2.5 times as saturated."""
CORRECTED_SHARE = 0.4
"""Share of the values of a frame up to which correcting them takes less time than making colours of the frame."""
MARGIN = 3
"""Checked pixels around those far beyond, where clipping is corrected too, at least."""
BLOCK_OUTPUTS = 16
"""Outputs in a block of the rows' filter: they fill a register of 16 floats."""
CHROMA_BUFFERS = 6
"""Buffers of chroma that share the cache: two planes, their products in three colours, and one more."""


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
        self._luma = _PlaneFilter(down, across, 1)
        self._blue, self._green, self._red = (
            _PlaneFilter(shared_down, shared_across, CHROMA_BUFFERS) for _ in range(3)
        )
        strips, shared_columns = self._blue.strips, self._blue.columns
        self._u, self._v = (_Differences(strips[0].values.shape, shared_columns) for _ in range(2))
        self._products = np.empty_like(strips[0].values)
        self._clipping = _Clipping(strips, shared_columns, chroma_steps)
        shrinking = min(axis.source / axis.resized for axis in (rows, columns))
        self._clipped_share = next(share for least, share in CLIPPED_SHARES if shrinking >= least)

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
        far_beyond = self._clipping.far_beyond(planes, colours)
        regions = self._clipping.regions(far_beyond)
        if self._are_too_many(far_beyond, regions):
            return False
        luma = self._filter_luma(planes.y, colours.luma)
        self._filter_chroma_columns(planes, colours, regions)
        for channel, colour in enumerate((self._blue, self._green, self._red)):
            sums = colour.across()
            np.add(sums, luma, out=sums)
            np.clip(sums, 0.0, 255.0, out=sums)
            np.copyto(out[:, :, 2 - channel if reverse else channel], sums, casting="unsafe")
        return True

    def _are_too_many(self, far_beyond: Mask, regions: Sequence[_Region]) -> bool:
        """Return whether colours of a whole frame would be nearer or faster."""
        share = np.count_nonzero(far_beyond, axis=(1, 2)).max() / far_beyond[0].size
        return bool(share > self._clipped_share) or self._clipping.share(regions) > CORRECTED_SHARE

    def _filter_luma(self, plane: Plane, term: ColourTerm) -> Values:
        """Return the ``h×w`` filtered products of luma, and a half that rounds their sums with chroma."""
        for strip in self._luma.strips:
            strip.make_room()
            np.copyto(strip.values, plane[strip.rows, self._luma.columns])
            np.subtract(strip.values, term.zero, out=strip.values)
            term.of(strip.values, out=strip.values)
            strip.filter()
        luma = self._luma.across()
        return np.add(luma, 0.5, out=luma)

    def _filter_chroma_columns(self, planes: YuvPlanes, colours: YuvColours, clipped: Sequence[_Region]) -> None:
        filters = (self._blue.strips, self._green.strips, self._red.strips)
        for *strips, region in zip(*filters, clipped, strict=True):
            for strip in strips:
                strip.make_room()
            self._multiply(planes, colours, *strips)
            if region.colours:
                corrected = [strips[colour] for colour in region.colours]
                self._clipping.correct(planes.y, colours.luma, corrected, region.columns)
            for strip in strips:
                strip.filter()

    def _multiply(self, planes: YuvPlanes, colours: YuvColours, blue: Strip, green: Strip, red: Strip) -> None:
        """Fill the strips with the products of chroma."""
        u, v = self._u.read(planes.u, blue), self._v.read(planes.v, red)
        products = self._products[: len(u)]
        colours.blue_in_blue.of(u, out=blue.values)
        colours.red_in_red.of(v, out=red.values)
        colours.blue_in_green.of(u, out=products)
        colours.red_in_green.of(v, out=green.values)
        np.add(green.values, products, out=green.values)


class _PlaneFilter:
    """Filters one plane, first along its columns. Not thread-safe: it owns its scratch buffers.

    Attributes:
        columns: columns of the plane that are needed.
        strips: the rows that are needed, a few at a time.

    Args:
        down: taps of the columns.
        across: taps of the rows.
        buffers: number of buffers as large as a strip that share the cache.
    """

    def __init__(self, down: Taps, across: Taps, buffers: int) -> None:
        height = len(down.first)
        self.columns = slice(across.begin, across.end)
        self._across = LineFilter(across, np.float32, BLOCK_OUTPUTS, height)
        rows = lines_at_once(4 * buffers * (across.end - across.begin))
        self.strips = ColumnFilter(down, self._across.values, rows).strips
        self._sums: Values = np.empty((height, self._across.outputs), np.float32)
        self._resized = self._sums[:, : len(across.first)]

    def across(self) -> Values:
        """Filter along the rows what the strips gave, into ``(h, w)`` float32, a scratch buffer."""
        self._across(self._sums)
        return self._resized


class _Differences:
    """The values of a chroma plane without their zero, a strip at a time.

    Args:
        shape: rows and columns of the largest strip.
        columns: columns of the plane.
    """

    def __init__(self, shape: tuple[int, ...], columns: slice) -> None:
        self._columns = columns
        self._values: Values = np.empty(shape, np.float32)

    def read(self, plane: Plane, strip: Strip) -> Values:
        """Return the values of a strip, ``(rows, columns)`` float32."""
        values = self._values[: len(strip.values)]
        np.copyto(values, plane[strip.rows, self._columns])
        return np.subtract(values, NEUTRAL, out=values)


@dataclass(frozen=True)
class _Region:
    """Where in a strip colours lie far beyond black or white.

    Attributes:
        colours: 0 for blue, 1 for green, 2 for red.
        columns: columns of the strip.
    """

    colours: tuple[int, ...]
    columns: slice


_NOWHERE = _Region((), slice(0, 0))


class _Clipping:
    """What clipping at black and white takes from colours, where they lie far beyond. Not thread-safe.

    A part of the pixels, in equal distances, tells in which strips, and between which columns, some do.

    Args:
        strips: strips of chroma.
        columns: columns of chroma that are needed.
        chroma_steps: rows and columns of pixels that share a chroma value.
    """

    def __init__(self, strips: Sequence[Strip], columns: slice, chroma_steps: tuple[ChromaStep, ChromaStep]) -> None:
        rows, largest = slice(strips[0].rows.start, strips[-1].rows.stop), strips[0].values.size
        every = max(1, math.isqrt((rows.stop - rows.start) * (columns.stop - columns.start) // CHECKED_PIXELS))
        self._checked = (slice(rows.start, rows.stop, every), slice(columns.start, columns.stop, every))
        self._checked_luma = tuple(
            slice(step * axis.start, step * axis.stop, step * every)
            for step, axis in zip(chroma_steps, (rows, columns), strict=True)
        )
        self._first_checked = [-(-(strip.rows.start - rows.start) // every) for strip in strips]
        self._every, self._steps, self._columns = every, chroma_steps, columns
        self._luma, self._colour = (np.empty(math.prod(chroma_steps) * largest, np.float32) for _ in range(2))
        self._luma_sums, self._colour_sums = (np.empty(3 * largest, np.float32) for _ in range(2))

    def far_beyond(self, planes: YuvPlanes, colours: YuvColours) -> Mask:
        """Return ``(3, rows, columns)``: whether blue, green and red of the checked pixels lie far beyond."""
        luma = colours.luma.mean(planes.y[self._checked_luma])
        u, v = planes.u[self._checked], planes.v[self._checked]
        sums = np.empty((3, *luma.shape), np.float32)
        np.add(luma, colours.blue_in_blue.mean(u), out=sums[0])
        np.add(luma, colours.blue_in_green.mean(u), out=sums[1])
        np.add(sums[1], colours.red_in_green.mean(v), out=sums[1])
        np.add(luma, colours.red_in_red.mean(v), out=sums[2])
        return np.abs(sums - 127.5) > 127.5 + FAR_BEYOND

    def regions(self, far_beyond: Mask) -> list[_Region]:
        """Return where colours lie far beyond, for each strip."""
        if not far_beyond.any():
            return [_NOWHERE] * len(self._first_checked)
        edges = itertools.pairwise([*self._first_checked, far_beyond.shape[1]])
        return [self._region(far_beyond[:, max(begin - MARGIN, 0) : end + MARGIN]) for begin, end in edges]

    def share(self, regions: Sequence[_Region]) -> float:
        """Return the share of the values of all colours that lie in regions."""
        width = self._columns.stop - self._columns.start
        values = sum(len(region.colours) * (region.columns.stop - region.columns.start) for region in regions)
        return float(values / (3 * width * len(regions)))

    def _region(self, far_beyond: Mask) -> _Region:
        columns = np.flatnonzero(far_beyond.any(axis=(0, 1)))
        if not len(columns):
            return _NOWHERE
        margin = MARGIN + far_beyond.shape[2] // np.count_nonzero(far_beyond)
        begin, end = self._every * (int(columns[0]) - margin), self._every * (int(columns[-1]) + 1 + margin)
        width = self._columns.stop - self._columns.start
        which = np.flatnonzero(far_beyond.any(axis=(1, 2))).tolist()
        return _Region(tuple(which), slice(max(begin, 0), min(end, width)))

    def correct(self, plane: Plane, term: ColourTerm, strips: Sequence[Strip], columns: slice) -> None:
        """Add to each product of chroma what clipping takes, in the mean, from the pixels that it colours.

        Where it takes more from one side of them than from the other, the difference is added to the next product on
        that side and taken from the one on the other, so that the centre of all that is taken stays where it is.

        Args:
            plane: luma.
            term: of luma.
            strips: the same rows of one or more colours.
            columns: columns of the strips.
        """
        shape = strips[0].values[:, columns].shape
        luma = self._read(plane, term, strips[0].rows, columns.start, shape)
        luma_sums, colour = self._sums(luma, self._luma_sums), _part(self._colour, luma.shape)
        for strip in strips:
            values = strip.values[:, columns]
            np.add(luma, values, out=colour)
            np.clip(colour, 0.0, 255.0, out=colour)
            sums = self._sums(colour, self._colour_sums)
            np.subtract(sums, luma_sums, out=sums)
            _keep_centres(*sums, scratch=_part(self._colour, shape))
            np.multiply(sums[0], 1.0 / math.prod(self._steps), out=values)

    def _read(self, plane: Plane, term: ColourTerm, rows: slice, column: int, shape: tuple[int, ...]) -> Values:
        """Return the products of luma; the first two axes are the rows and columns that share a chroma value."""
        down, across = self._steps
        luma = _part(self._luma, (down, across, *shape))
        top, left = down * rows.start, across * (self._columns.start + column)
        pixels = plane[top : top + down * shape[0], left : left + across * shape[1]]
        for row, column in itertools.product(range(down), range(across)):
            np.copyto(luma[row, column], pixels[row::down, column::across])
        np.subtract(luma, term.zero, out=luma)
        term.of(luma, out=luma)
        return luma

    def _sums(self, pixels: Values, scratch: Values) -> Values:
        """Return the sum of the pixels of each chroma value, of the right ones, and of those below."""
        down, across = self._steps
        sums = _part(scratch, (3, *pixels.shape[2:]))
        total, right, below = sums
        np.add.reduce(pixels, axis=(0, 1), out=total)
        for count, later, half in ((down, pixels[-1], below), (across, pixels[:, -1], right)):
            np.add.reduce(later, axis=0, out=half)
            if count == 1:
                np.multiply(half, 0.5, out=half)
        return sums


def _keep_centres(total: Values, right: Values, below: Values, *, scratch: Values) -> None:
    """Move the difference of the halves of a sum to its neighbours.

    The halves lie a quarter of the distance of two neighbours to the left and to the right of their centre. An eighth
    of their difference, added to the right neighbour and taken from the left one, moves the sum's centre as far.
    """
    np.multiply(total, 0.125, out=scratch)
    for half in (right, below):
        np.multiply(half, 0.25, out=half)
        np.subtract(half, scratch, out=half)
    np.add(total[:, 1:], right[:, :-1], out=total[:, 1:])
    np.subtract(total[:, :-1], right[:, 1:], out=total[:, :-1])
    np.add(total[1:], below[:-1], out=total[1:])
    np.subtract(total[:-1], below[1:], out=total[:-1])


def _part(scratch: Values, shape: tuple[int, ...]) -> Values:
    """Return the begin of a scratch buffer in another shape."""
    return scratch[: math.prod(shape)].reshape(shape)
