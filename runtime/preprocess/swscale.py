"""From the frame of an FFmpeg decoder to a small picture, by FFmpeg's filters.

A chain of filters cuts out the part of a frame that the network sees, makes colours of it as ``Converter.bgr`` makes
them, and resizes them. swscale's bicubic filter with B = 0 and C = 0.5 is Pillow's, and widens like Pillow's where it
shrinks a picture. Three things differ. swscale rounds once, and Pillow after each pass. swscale's weights have 14 and
12 bits, and Pillow's have 22. At the edges of a picture, swscale repeats pixels, and Pillow leaves out what lies
beyond. So swscale only resizes frames whose edges the network does not see.

To resize colours, swscale would turn them into luma and chroma and back. So their planes are passed off as luma and
chroma, which it resizes as they are.

swscale resizes whole pixels to whole pixels, but the part that the network sees begins and ends between pixels. So a
wider part is resized, whose ends are near to whole pixels (``find_part``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vitedge.bundle.preprocessing import Interpolation
from vitedge.prediction import Image
from vitedge.runtime.preprocess.planes import Matrix, YuvPlanes
from vitedge.runtime.preprocess.taps import FILTERS, ResizeAxis

FLAGS = {"bicubic": "bicubic+accurate_rnd:param0=0:param1=0.5", "bilinear": "bilinear+accurate_rnd"}
"""swscale's filters that are Pillow's."""
MOST_SHIFT = 1 / 95
"""How far an end of a part may lie from a whole pixel of the frame, in pixels of the resized frame."""
LEAST_SHRINKING = 1.5
"""How much both sides must shrink. Below, results that Pillow clips between its passes are up to 5 off."""
CONVERTED_ROWS = 2
"""Two rows may share a row of chroma."""
CONVERTED_COLUMNS = 16
"""On Arm64, swscale rounds otherwise where the width is no multiple of it (libswscale/aarch64/swscale_unscaled.c)."""
_INTERLEAVED = ("nv12", "nv21")
_BGR_AS_YUV = "format=yuv444p:map0p=1:map1p=0:map2p=2"
"""Options that make ``yuv444p`` of the planes for blue, green and red of ``gbrp``."""

_Filter: TypeAlias = tuple[str, str]
"""FFmpeg's name of a filter, and its options."""


@dataclass(frozen=True)
class FrameKind:
    """What frames must have in common to share a ``SwscaleResampler``.

    Attributes:
        height: rows of the picture.
        width: columns of the picture.
        pixel_format: FFmpeg's name.
        matrix: how colours were turned into luma and chroma.
        full_range: whether luma goes from 0 to 255.
    """

    height: int
    width: int
    pixel_format: str
    matrix: Matrix
    full_range: bool


def frame_kind(planes: YuvPlanes) -> FrameKind:
    """Return the kind of the decoder's frame that holds the planes."""
    name = planes.decoder_frame.format.name
    return FrameKind(planes.height, planes.width, name, planes.matrix, planes.full_range)


def resizes_as_pillow(interpolation: Interpolation, rows: ResizeAxis, columns: ResizeAxis) -> bool:
    """Return whether a ``SwscaleResampler`` gives nearly what Pillow gives."""
    return interpolation in FLAGS and all(_shrinks_inside(axis, _support(interpolation)) for axis in (rows, columns))


def _shrinks_inside(axis: ResizeAxis, support: int) -> bool:
    """Return whether an axis shrinks enough, and no output depends on pixels beyond its edges."""
    inside = support <= axis.start and axis.stop <= axis.resized - support
    return inside and axis.source >= LEAST_SHRINKING * axis.resized


def _support(interpolation: Interpolation) -> int:
    """Return how many pixels of a resized axis, on either side of an output, it depends on."""
    return round(FILTERS[interpolation].support)


class SwscaleResampler:
    """Resizes frames of one kind to a window of the resized picture. Not thread-safe: it owns a chain of filters.

    Args:
        interpolation: one of ``FLAGS``.
        rows: resize of the rows.
        columns: resize of the columns.
        kind: kind of the frames.
    """

    def __init__(self, interpolation: Interpolation, rows: ResizeAxis, columns: ResizeAxis, kind: FrameKind) -> None:
        down, across = (find_part(axis, _support(interpolation)) for axis in (rows, columns))
        self._resize = _FilterGraph(kind, _filters(interpolation, down, across, kind))
        self._rows = slice(rows.start - down.resized.start, rows.stop - down.resized.start)
        self._columns = slice(columns.start - across.resized.start, columns.stop - across.resized.start)

    def __call__(self, frame: Any, reverse: bool, out: Image) -> None:
        """Resize.

        Args:
            frame: a ``VideoFrame`` of PyAV.
            reverse: whether to write RGB instead of BGR.
            out: ``h×w×3``, receives the window.
        """
        resized = self._resize(frame)
        for colour, plane in enumerate(resized.planes):
            pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            np.copyto(out[:, :, 2 - colour if reverse else colour], pixels[self._rows, self._columns])


@dataclass(frozen=True)
class AxisPart:
    """A part of an axis that is resized by itself.

    Attributes:
        source: its pixels in the frame.
        resized: its pixels in the resized frame.
    """

    source: slice
    resized: slice


def find_part(axis: ResizeAxis, support: int) -> AxisPart:
    """Return the least part of an axis that gives the pixels from ``axis.start`` to ``axis.stop``.

    Args:
        axis: the resize.
        support: pixels of the resized axis on either side of an output that it depends on.
    """
    begin = _nearest(axis, range(axis.start - support, 0, -1)) or (0, 0)
    end = _nearest(axis, range(axis.stop + support, axis.resized)) or (axis.source, axis.resized)
    return AxisPart(slice(begin[0], end[0]), slice(begin[1], end[1]))


def _nearest(axis: ResizeAxis, places: Iterable[int]) -> tuple[int, int] | None:
    """Return the first place of the resized axis that lies near a pixel of the frame, after that pixel."""
    scale = axis.source / axis.resized
    pixels = ((round(place * scale), place) for place in places)
    return next((each for each in pixels if abs(each[0] / scale - each[1]) <= MOST_SHIFT), None)


class _FilterGraph:
    """A chain of FFmpeg's filters, which run on the calling thread.

    Args:
        kind: kind of the frames.
        filters: the chain.
    """

    def __init__(self, kind: FrameKind, filters: Sequence[_Filter]) -> None:
        from av.filter import Graph

        self._graph = Graph()  # kept here, because its filters do not keep it alive
        if hasattr(self._graph, "threads"):  # from PyAV 17.1 on; older ones start threads that wait for work
            self._graph.threads = 1
        self._source = self._graph.add(
            "buffer",
            video_size=f"{kind.width}x{kind.height}",
            pix_fmt=kind.pixel_format,
            time_base="1/1000",
            pixel_aspect="1/1",
        )
        chain = [self._graph.add(name, options) for name, options in filters]
        self._sink = self._graph.add("buffersink")
        self._graph.link_nodes(self._source, *chain, self._sink).configure()

    def __call__(self, frame: Any) -> Any:
        """Return the ``VideoFrame`` that the filters make of another."""
        self._source.push(frame)
        return self._sink.pull()


def _filters(interpolation: Interpolation, rows: AxisPart, columns: AxisPart, kind: FrameKind) -> list[_Filter]:
    colours = f"in_color_matrix={kind.matrix}:in_range={'full' if kind.full_range else 'limited'}"
    planar = [_scale(), ("format", "yuv420p")] if kind.pixel_format in _INTERLEAVED else []
    down = _aligned(rows.source, CONVERTED_ROWS, kind.height)
    across = _aligned(columns.source, CONVERTED_COLUMNS, kind.width)
    return [
        _crop(down, across),
        *planar,
        _scale(f"flags=bicubic:{colours}"),
        ("format", "gbrp"),
        _crop(_inside(rows.source, down), _inside(columns.source, across)),
        ("mergeplanes", _BGR_AS_YUV),
        _scale(f"{_length(columns.resized)}:{_length(rows.resized)}:flags={FLAGS[interpolation]}"),
    ]


def _aligned(pixels: slice, multiple: int, length: int) -> slice:
    """Widen a part of an axis until swscale converts it as it converts the whole frame."""
    begin, end = pixels.start // multiple, -(-pixels.stop // multiple)
    return slice(begin * multiple, min(end * multiple, length))


def _inside(pixels: slice, whole: slice) -> slice:
    return slice(pixels.start - whole.start, pixels.stop - whole.start)


def _crop(rows: slice, columns: slice) -> _Filter:
    return ("crop", f"{_length(columns)}:{_length(rows)}:{columns.start}:{rows.start}:exact=1")


def _scale(*options: str) -> _Filter:
    return ("scale", ":".join([*options, "threads=1"]))


def _length(pixels: slice) -> int:
    return int(pixels.stop - pixels.start)
