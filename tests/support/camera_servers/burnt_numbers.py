"""Frame numbers as a strip of black and white blocks in the picture, which survives lossy compression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLUMNS = 20
"""Blocks across the picture: one white, one black, the number, and a checksum."""
NUMBER_BITS = 14
CHECK_BITS = 4
WHITE, BLACK = 235, 20
CLEARLY_WHITE, CLEARLY_BLACK = 170, 85


def _checksum(number: int) -> int:
    return (number ^ number >> 4 ^ number >> 8 ^ number >> 12 ^ 0b0110) & 0b1111


def _blocks(number: int) -> list[bool]:
    coded = number | _checksum(number) << NUMBER_BITS
    return [True, False, *(bool(coded >> bit & 1) for bit in range(NUMBER_BITS + CHECK_BITS))]


def burn(picture: NDArray[np.uint8], number: int) -> None:
    """Write a number of ``NUMBER_BITS`` bits across the top of a ``H×W×3`` uint8 picture."""
    width = picture.shape[1] // COLUMNS
    for place, white in enumerate(_blocks(number)):
        picture[:width, place * width : (place + 1) * width] = WHITE if white else BLACK


def read(picture: NDArray[np.uint8]) -> int | None:
    """Read the number of a picture of any size; None from a picture that is torn, grey or has none."""
    width = picture.shape[1] // COLUMNS
    inside = slice(width // 4, width - width // 4)
    strip = picture[inside, : COLUMNS * width].reshape(inside.stop - inside.start, COLUMNS, width, 3)
    levels = strip[:, :, inside].mean(axis=(0, 2, 3))
    if ((levels > CLEARLY_BLACK) & (levels < CLEARLY_WHITE)).any():
        return None
    bits = [int(level > CLEARLY_BLACK) for level in levels]
    number = sum(bit << place for place, bit in enumerate(bits[2 : 2 + NUMBER_BITS]))
    return number if [bool(bit) for bit in bits] == _blocks(number) else None
