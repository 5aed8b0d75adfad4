"""Pictures of PyAV's decoders: views of their planes, BGR, and how they are shown."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitedge.prediction import Image
from vitedge.runtime.preprocess.orientation import AS_STORED, orientation_of_matrix
from vitedge.runtime.preprocess.planes import Matrix, Plane, YuvPlanes

_CHROMA = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (1, 2),
    "yuvj422p": (1, 2),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
    "yuv440p": (2, 1),
    "yuvj440p": (2, 1),
    "yuv411p": (1, 4),
    "yuvj411p": (1, 4),
    "yuv410p": (4, 4),
    "nv12": (2, 2),
    "nv21": (2, 2),
}
"""Pixel formats of 8-bit planes, with the rows and columns that a chroma value colours."""
_INTERLEAVED = {"nv12": (0, 1), "nv21": (1, 0)}
_MATRICES: dict[int, Matrix] = {1: "bt709", 9: "bt2020", 10: "bt2020"}
"""FFmpeg's numbers of matrices; the others are near BT.601, which is also meant where none is stated."""
_BT601 = (2, 5, 6)
"""FFmpeg's numbers of matrices that it takes for BT.601; with others it cannot convert every pixel format."""
_SWS_MATRIX = {"bt601": 5, "bt709": 1, "bt2020": 9}
_NARROW_RANGE, _FULL_RANGE = 1, 2
_BICUBIC = 4
"""OpenCV's choice, for pixel formats whose chroma is interpolated."""
REFORMATS_IN_THREADS = 17
"""PyAV's first version that converts in a thread a core, which wait for work beside the stream's own."""
_DISPLAY_MATRIX = 36
_SMALL = 16


class Converter:
    """FFmpeg's conversion to BGR, for one source, on the calling thread; any thread may use it."""

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._threads = {"threads": 1} if int(av.__version__.partition(".")[0]) >= REFORMATS_IN_THREADS else {}
        self._lock = threading.Lock()

    def bgr(self, frame: Any) -> Image:
        """Return a new ``H×W×3`` uint8 array of a ``VideoFrame``, by the matrix and range that it states.

        Chroma that lies in pairs is sorted into planes first, which swscale repeats instead of interpolating it, so
        that the same picture has the same colours in either format.
        """
        states = {} if frame.format.is_rgb else _stated_colours(frame)
        with self._lock:
            if frame.format.name in _INTERLEAVED:
                frame = self._reformatter.reformat(frame, format="yuv420p", **self._threads)
            options = {"interpolation": _BICUBIC, **states, **self._threads}
            converted = self._reformatter.reformat(frame, format="bgr24", **options)
        plane: Any = converted.planes[0]
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(frame.height, plane.line_size)
        return np.ascontiguousarray(rows[:, : 3 * frame.width]).reshape(frame.height, frame.width, 3)


def _stated_colours(frame: Any) -> dict[str, int]:
    """Return the colours that a frame states for its conversion; nothing where FFmpeg assumes them anyway."""
    matrix, full = _MATRICES.get(frame.colorspace, "bt601"), _is_full_range(frame)
    if frame.colorspace in _BT601 and not full:
        return {}
    return {
        "src_colorspace": _SWS_MATRIX[matrix],
        "src_color_range": _FULL_RANGE if full else _NARROW_RANGE,
        "dst_colorspace": _SWS_MATRIX["bt601"],  # BGR has none; PyAV 15 looks for one that differs
    }


def _is_full_range(frame: Any) -> bool:
    return bool(frame.color_range == _FULL_RANGE or frame.format.name.startswith(("yuvj", "gray")))


@dataclass(frozen=True, eq=False)
class DecodedPlanes(YuvPlanes):
    """The planes of a decoder's frame, which they keep alive.

    Attributes:
        frame: PyAV's ``VideoFrame``.
        converter: converts it.
    """

    frame: Any = field(default=None, repr=False)
    converter: Converter | None = field(default=None, repr=False)

    @property
    def decoder_frame(self) -> Any:
        """Return the decoder's frame."""
        return self.frame

    def bgr(self) -> Image:
        """Return the picture as a new ``H×W×3`` uint8 array, as FFmpeg converts it."""
        assert self.converter is not None
        return self.converter.bgr(self.frame)

    def __reduce__(self) -> tuple[type[YuvPlanes], tuple[Plane, Plane, Plane, Matrix, bool]]:
        """Copy and pickle the planes without the decoder's frame, which is of this process."""
        return YuvPlanes, (self.y, self.u, self.v, self.matrix, self.full_range)


def planes_of(frame: Any, converter: Converter) -> DecodedPlanes | None:
    """Return views of the planes of a ``VideoFrame``; None for another pixel format than YUV of 8 bits."""
    name = frame.format.name
    chroma = _CHROMA.get(name)
    if chroma is None:
        return None
    height, width = frame.height, frame.width
    rows, columns = -(-height // chroma[0]), -(-width // chroma[1])
    luma = _view(frame.planes[0], height, width)
    if name in _INTERLEAVED:
        pairs = _view(frame.planes[1], rows, 2 * columns)
        blue, red = (pairs[:, at::2] for at in _INTERLEAVED[name])
    else:
        blue, red = (_view(frame.planes[at], rows, columns) for at in (1, 2))
    matrix = _MATRICES.get(frame.colorspace, "bt601")
    return DecodedPlanes(luma, blue, red, matrix, _is_full_range(frame), frame, converter)


def _view(plane: Any, rows: int, columns: int) -> Plane:
    """Return a read-only view of ``rows×columns`` bytes of a plane, whose lines may be longer, or upside down."""
    line = plane.line_size
    values = np.frombuffer(plane, dtype=np.uint8).reshape(-1, abs(line))[:rows, :columns]
    values.flags.writeable = False
    return values if line > 0 else values[::-1]


def orientation_of(picture: Any) -> int:
    """Return the EXIF orientation by which a ``VideoFrame`` is shown; 1 if it states none, or another angle.

    PyAV ties a frame whose side data is read into a cycle, which keeps its memory until Python looks for cycles. So the
    side data is read from a small copy.
    """
    small = picture.reformat(width=_SMALL, height=_SMALL, format="gray")
    try:
        matrix = np.frombuffer(bytes(small.side_data["DISPLAYMATRIX"]), dtype=np.int32)
    except KeyError:
        return AS_STORED
    return orientation_of_matrix(matrix.tolist()) if matrix.nbytes == _DISPLAY_MATRIX else AS_STORED
