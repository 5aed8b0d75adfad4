"""Planes of pictures: made of a picture in float64, and read from H.264."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.runtime.preprocess.planes import Matrix, YuvPlanes

Image = NDArray[np.uint8]
Float = NDArray[np.float64]

LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


def repeated(plane: Image, height: int, width: int, steps: tuple[int, int]) -> Float:
    """A chroma value for every pixel that it covers."""
    rows, columns = np.arange(height) // steps[0], np.arange(width) // steps[1]
    return plane[rows][:, columns].astype(np.float64)


def unclipped_bgr(planes: YuvPlanes, *, rounds_down: bool) -> Float:
    """The colours of planes before they are clipped, by the definition of the matrix, in float64.

    Args:
        planes: the planes.
        rounds_down: whether each product is rounded down, as swscale does on x86.
    """
    steps = planes.chroma_steps
    of_red, of_blue = LUMA_WEIGHTS[planes.matrix]
    of_green = 1 - of_red - of_blue
    luma, chroma, black = (1.0, 1.0, 0) if planes.full_range else (255 / 219, 255 / 224, 16)
    u, v = (repeated(plane, planes.height, planes.width, steps) - 128 for plane in (planes.u, planes.v))

    def product(coefficient: float, values: Float) -> Float:
        exact = round(coefficient * 8192) / 8192 * values
        return np.floor(exact) if rounds_down else exact

    y = product(luma, planes.y.astype(np.float64) - black)
    blue, red = 2 * (1 - of_blue) * chroma, 2 * (1 - of_red) * chroma
    green = product(-blue * of_blue / of_green, u) + product(-red * of_red / of_green, v)
    return np.stack([y + product(blue, u), y + green, y + product(red, v)], axis=-1)


def h264(rgb: Image, pixel_format: str = "yuv420p", **options: str) -> NDArray[np.void]:
    """The decoded ``VideoFrame`` of a picture that was encoded with H.264, and with options of the encoder."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "18", "preset": "ultrafast", **options})
        stream.height, stream.width, stream.pix_fmt = rgb.shape[0], rgb.shape[1], pixel_format
        for frame in (av.VideoFrame.from_ndarray(rgb, format="rgb24"), None):
            container.mux(stream.encode(frame))
    file.seek(0)
    with av.open(file) as container:
        return next(container.decode(video=0))
