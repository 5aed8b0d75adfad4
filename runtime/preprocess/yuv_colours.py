"""From luma and chroma to colours, in the arithmetic of FFmpeg's swscale.

Networks see what swscale makes of a video. A colour is a sum of products, each a value times a coefficient of 13
fractional bits. swscale's code for x86 rounds each product down to whole levels before it adds them
(libswscale/x86/yuv_2_rgb.asm), so that green comes out 1.5 levels too dark on average, blue and red 1 level. It adds
whole products where every pixel has its own chroma. Its code for Arm64 keeps half levels and rounds their sum
(libswscale/aarch64/yuv2rgb_neon.S), which is on average within half a level of the sum of whole products.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix = Literal["bt601", "bt709", "bt2020"]
Plane: TypeAlias = NDArray[np.uint8]
Sums: TypeAlias = NDArray[np.int32]

FRACTION_BITS = 13
ROUNDS_DOWN = platform.machine().lower() in {"x86_64", "amd64", "i686"}
"""Whether swscale rounds products down on this machine."""

ONE_LEVEL = 1 << FRACTION_BITS
"""A level in the units of ``ColourTerm.table``."""
NEUTRAL = 128
_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Weights of red and of blue in luma."""


@dataclass(frozen=True)
class ColourTerm:
    """What a value of luma or chroma adds to a colour: ``coefficient * (value - zero)``.

    Attributes:
        coefficient: levels, a multiple of ``2**-FRACTION_BITS``; products are exact in float32.
        zero: the value that adds nothing.
        rounds_down: whether the product is rounded down to whole levels.
    """

    coefficient: float
    zero: int
    rounds_down: bool

    @cached_property
    def table(self) -> Sums:
        """Compute the ``(256,)`` products of all values, in units of ``2**-FRACTION_BITS``."""
        products = self.coefficient * (np.arange(256) - self.zero)
        return np.asarray((np.floor(products) if self.rounds_down else products) * ONE_LEVEL, np.int32)

    def of(self, differences: NDArray[np.floating[Any]], out: NDArray[np.floating[Any]]) -> None:
        """Write the products of values, given without their ``zero``, into ``out``; both in float32."""
        np.multiply(differences, self.coefficient, out=out)
        if self.rounds_down:
            np.floor(out, out=out)

    def mean(self, values: Plane) -> NDArray[np.float32]:
        """Return the products of values in float32, not rounded but as rounding leaves them on average."""
        products: NDArray[np.float32] = values.astype(np.float32)
        np.subtract(products, self.zero, out=products)
        np.multiply(products, self.coefficient, out=products)
        return np.subtract(products, 0.5, out=products) if self.rounds_down else products


@dataclass(frozen=True)
class YuvColours:
    """The products that make colours of luma and chroma.

    Attributes:
        luma: of luma, in every colour.
        blue_in_blue: of the blue difference, in blue.
        blue_in_green: of the blue difference, in green.
        red_in_green: of the red difference, in green.
        red_in_red: of the red difference, in red.
    """

    luma: ColourTerm
    blue_in_blue: ColourTerm
    blue_in_green: ColourTerm
    red_in_green: ColourTerm
    red_in_red: ColourTerm

    def of_chroma(self, u: Plane, v: Plane) -> tuple[Sums, Sums, Sums]:
        """Return what chroma adds to blue, green and red, in units of ``2**-FRACTION_BITS``."""
        green = self.blue_in_green.table[u] + self.red_in_green.table[v]
        return self.blue_in_blue.table[u], green, self.red_in_red.table[v]


@lru_cache
def yuv_colours(matrix: Matrix, *, full_range: bool, rounds_down: bool) -> YuvColours:
    """Return the products of a matrix and a range."""
    of_red, of_blue = _LUMA_WEIGHTS[matrix]
    of_green = 1.0 - of_red - of_blue
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    red, blue = 2.0 * (1.0 - of_red) * chroma, 2.0 * (1.0 - of_blue) * chroma

    def term(coefficient: float, zero: int) -> ColourTerm:
        return ColourTerm(round(coefficient * ONE_LEVEL) / ONE_LEVEL, zero, rounds_down)

    return YuvColours(
        luma=term(luma, 0 if full_range else 16),
        blue_in_blue=term(blue, NEUTRAL),
        blue_in_green=term(-blue * of_blue / of_green, NEUTRAL),
        red_in_green=term(-red * of_red / of_green, NEUTRAL),
        red_in_red=term(red, NEUTRAL),
    )
