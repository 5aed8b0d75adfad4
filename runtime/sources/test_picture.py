"""``test://``: a moving picture that carries its frame number, for demos, tests and reports of bugs.

The number and check bits are burnt into the upper quarter as black and white cells, which survive compression and
resizing. ``read_frame_number`` reads them, so that a test knows which frame a prediction belongs to.
"""

from __future__ import annotations

import binascii
import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import UsageError
from vitedge.prediction import Image
from vitedge.runtime.preprocess.planes import Plane, YuvPlanes
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import PictureOptions

COLUMNS, ROWS = 12, 4
"""Cells of the code: 32 bits of the number, then 16 check bits, row by row."""
HEIGHT_IN_ROWS = 16
"""The picture is as high as so many rows of cells."""
LEAST_CELL = 3
NUMBERS = 1 << 32
DARK, BRIGHT = 16, 235
BUFFERED_FRAMES = 4
"""A reader that is later by more frames loses them, as with a camera."""
SPEED = 4
"""Pixels by which the picture moves from one frame to the next, along a line of 640 pixels."""


class NumberedPicture(FrameSource):
    """The test picture, live or of a number of frames.

    A live picture keeps its frame rate. Each frame has the moment at which it was due as its time of capture, and a
    reader that is late loses frames, so that the number in the picture runs ahead of ``Frame.index``.

    Args:
        options: size, rate and number of frames.
    """

    def __init__(self, options: PictureOptions | None = None) -> None:
        self.options = self._options = options or PictureOptions()
        _check_size(self._options)
        self.name = "the test picture"
        self.live = self._options.frames is None
        self.fps = self._options.fps
        self.length = self._options.frames
        self._planes = self.live if self._options.planes is None else self._options.planes
        self._layers = _layers(self._options.width, self._options.height, planes=self._planes)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; a live picture yields each when it is due."""
        return self._due() if self.live else self._all()

    def close(self) -> None:
        """End the picture; a thread that waits for the next frame gets the end at once."""
        self._closed.set()

    def _all(self) -> Iterator[Frame]:
        for number in range(self._options.frames or 0):
            if self._closed.is_set():
                return
            yield Frame(self._pixels(number), number, pts=number / self._options.fps)

    def _due(self) -> Iterator[Frame]:
        index, number, began_ns = 0, 0, time.monotonic_ns()
        interval_ns = 1e9 / self._options.fps
        due_ns = began_ns
        while not self._closed.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
            yield Frame(
                self._pixels(number),
                index,
                captured_at=time.time() - (time.monotonic_ns() - due_ns) / 1e9,
                captured_ns=due_ns,
                pts=number / self._options.fps,
                age_basis="device",
            )
            index += 1
            number += 1
            newest = int((time.monotonic_ns() - began_ns) / interval_ns)
            if newest - number >= BUFFERED_FRAMES:
                number = newest
            due_ns = began_ns + round(number * interval_ns)

    def _pixels(self, number: int) -> Image | YuvPlanes:
        shift = number * SPEED * self._options.width // 640
        parts = [_moved(layer, shift, self._options.width) for layer in self._layers]
        code = _code(number, *parts[0].shape[:2])
        parts[0][: code.shape[0]] = code if parts[0].ndim == 2 else code[:, :, None]
        for chroma in parts[1:]:
            chroma[: -(-code.shape[0] // 2)] = 128
        return YuvPlanes(parts[0], parts[1], parts[2]) if self._planes else parts[0]


def read_frame_number(image: Image | YuvPlanes) -> int | None:
    """Read the number that the test picture carries.

    Args:
        image: ``H×W×3`` uint8 in any order of channels, or planes: the whole picture, also compressed or resized.

    Returns:
        The number, counted from 0 and modulo 2³²; None if the check bits do not fit: the picture is torn, damaged,
        cropped, or no test picture.
    """
    luma = image.y if isinstance(image, YuvPlanes) else image
    bits = [int(_centre(luma, cell).mean() > (DARK + BRIGHT) / 2) for cell in range(COLUMNS * ROWS)]
    value = int("".join(map(str, bits)), 2)
    number, check = value >> 16, value & 0xFFFF
    return number if check == _check(number) else None


def _check_size(options: PictureOptions) -> None:
    least = COLUMNS * LEAST_CELL, HEIGHT_IN_ROWS * LEAST_CELL
    if options.width < least[0] or options.height < least[1]:
        raise UsageError(
            f"the test picture has {options.width}x{options.height} pixels",
            expected=f"at least {least[0]}x{least[1]}, so that its number can be read",
        )


def _check(number: int) -> int:
    """Return 16 check bits; an all-black or an all-white code has wrong ones."""
    return binascii.crc_hqx(number.to_bytes(4, "big"), 0xFFFF)


def _code(number: int, height: int, width: int) -> Plane:
    """Return the cells as ``H/4×W`` uint8."""
    number %= NUMBERS
    value = number << 16 | _check(number)
    bits = np.array([int(bit) for bit in f"{value:0{COLUMNS * ROWS}b}"]).reshape(ROWS, COLUMNS)
    cells = np.where(bits, BRIGHT, DARK).astype(np.uint8)
    rows, columns = (np.diff(_edges(size, parts)) for size, parts in ((height, HEIGHT_IN_ROWS), (width, COLUMNS)))
    return cells.repeat(columns, axis=1).repeat(rows[:ROWS], axis=0)


def _edges(size: int, parts: int) -> NDArray[np.int64]:
    """Return where each of some equal parts of a side begins, and where the last one ends."""
    return np.arange(parts + 1, dtype=np.int64) * size // parts


def _centre(luma: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """Return the middle half of a cell."""
    row, column = divmod(cell, COLUMNS)
    ends = _edges(luma.shape[0], HEIGHT_IN_ROWS)[row : row + 2], _edges(luma.shape[1], COLUMNS)[column : column + 2]
    (top, bottom), (left, right) = ends
    high, wide = (bottom - top) // 4, (right - left) // 4
    return luma[top + high : bottom - high, left + wide : right - wide]


def _layers(width: int, height: int, *, planes: bool) -> list[NDArray[np.uint8]]:
    """Return the picture without its code, twice as wide, so that a window of it moves: planes, or BGR alone."""
    luma = _ramp(2 * width, height, width, 64)
    blue, red = (_ramp(2 * (-(-width // 2)), -(-height // 2), -(-width // 2), step) for step in (32, 96))
    if planes:
        return [luma, blue, red]
    once = [layer[:, : layer.shape[1] // 2] for layer in (luma, blue, red)]
    whole = YuvPlanes(once[0], once[1], once[2]).bgr()
    return [np.concatenate([whole, whole], axis=1)]


def _ramp(width: int, height: int, period: int, step: int) -> Plane:
    """Return bars that repeat after a period, and grow brighter from top to bottom."""
    columns = (np.arange(width) % period) * 6 // period * step % 192 + 32
    rows = np.arange(height) * 24 // height
    return (columns[None, :] + rows[:, None]).astype(np.uint8)


def _moved(layer: NDArray[np.uint8], shift: int, width: int) -> NDArray[np.uint8]:
    """Return a copy of the window of a layer at a shift; the layer is twice as wide as the window."""
    columns = layer.shape[1] // 2
    begin = shift * columns // width % columns
    return np.array(layer[:, begin : begin + columns])
