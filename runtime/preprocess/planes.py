"""``YuvPlanes``: a picture as a video decoder gives it, luma and chroma apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitedge.prediction import Image

Plane = NDArray[np.uint8]
Matrix = Literal["bt601", "bt709", "bt2020"]

_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


@dataclass(frozen=True, eq=False)
class YuvPlanes:
    """A picture as three planes of 8 bits, of any strides; nobody may write into them any more.

    Attributes:
        y: ``H×W`` luma.
        u: ``ceil(H / sy)×ceil(W / sx)`` blue difference, where ``sy`` and ``sx`` are 1, 2 or 4.
        v: red difference, of the shape of ``u``.
        matrix: how colours were turned into luma and chroma.
        full_range: whether luma goes from 0 to 255, as in JPEG, and not from 16 to 235.
    """

    y: Plane
    u: Plane
    v: Plane
    matrix: Matrix = "bt601"
    full_range: bool = False

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return int(self.y.shape[0])

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return int(self.y.shape[1])

    def bgr(self) -> Image:
        """Return the picture as a new ``H×W×3`` uint8 array; each chroma value colours the pixels that it covers."""
        luma = self.y.astype(np.float32)
        blue, red = (self._enlarged(plane).astype(np.float32) - 128.0 for plane in (self.u, self.v))
        if not self.full_range:
            luma, blue, red = (luma - 16.0) * (255.0 / 219.0), blue * (255.0 / 224.0), red * (255.0 / 224.0)
        return np.stack([self._rounded(each) for each in self._colours(luma, blue, red)], axis=-1)

    def _enlarged(self, plane: Plane) -> Plane:
        rows, columns = (-(-whole // part) for whole, part in zip(self.y.shape, plane.shape, strict=True))
        return plane.repeat(rows, axis=0).repeat(columns, axis=1)[: self.height, : self.width]

    def _colours(
        self, luma: NDArray[np.float32], blue: NDArray[np.float32], red: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], ...]:
        of_red, of_blue = _LUMA_WEIGHTS[self.matrix]
        red, blue = luma + 2 * (1 - of_red) * red, luma + 2 * (1 - of_blue) * blue
        return blue, (luma - of_red * red - of_blue * blue) / (1 - of_red - of_blue), red

    @staticmethod
    def _rounded(values: NDArray[np.float32]) -> Plane:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
