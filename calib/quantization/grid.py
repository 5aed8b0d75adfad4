"""Grids: the levels that 8 bits hold, of int8, uint8 and float8 (e4m3).

Levels are numbers; a scale turns them into values. Integers lie 1 apart everywhere. A float8 level has four significant
bits whatever its size, down to 2⁻⁶, and steps of 2⁻⁹ below that (Micikevicius et al., "FP8 Formats for Deep Learning",
2022): its rounding error is a share of the value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floating = TypeVar("Floating", np.float32, np.float64)


@dataclass(frozen=True)
class Grid(ABC):
    """The levels of a type.

    Attributes:
        lowest: smallest level.
        highest: largest level.
        dtype: holds levels in memory and in a graph.
    """

    lowest: int
    highest: int
    dtype: np.dtype[Any]

    @abstractmethod
    def rounded(self, levels: NDArray[Floating]) -> NDArray[Floating]:
        """Round to the nearest levels, as if there were no largest; ties go to the even one."""

    @abstractmethod
    def held_scales(self, scales: NDArray[np.float64]) -> NDArray[np.float32]:
        """Round scales above 0 to scales that engines hold; no scale becomes 0."""

    def nearest(self, levels: NDArray[Floating], zero_point: int = 0) -> NDArray[Floating]:
        """Round to the nearest levels; ties go to the even one, and what lies beyond the ends saturates.

        Args:
            levels: of any shape, counted from the zero point.
            zero_point: the level that stands for 0.

        Returns:
            Levels, in the type of the argument.
        """
        nearest = self.rounded(levels)
        nearest += zero_point
        return np.clip(nearest, self.lowest, self.highest, out=nearest)

    def scales(self, peaks: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the scales that bring magnitudes to the largest level; 1 for a magnitude of 0."""
        return np.where(peaks > 0, self.held_scales(peaks / self.highest), 1).astype(np.float32)


@dataclass(frozen=True)
class IntegerGrid(Grid):
    """Whole numbers."""

    def rounded(self, levels: NDArray[Floating]) -> NDArray[Floating]:
        """Round to whole numbers."""
        return np.asarray(np.rint(levels), dtype=levels.dtype)

    def held_scales(self, scales: NDArray[np.float64]) -> NDArray[np.float32]:
        """Round to float32."""
        return np.asarray(np.maximum(scales, np.finfo(np.float32).tiny), dtype=np.float32)


@dataclass(frozen=True)
class FloatGrid(Grid):
    """Floating-point numbers.

    Attributes:
        mantissa_bits: stored bits of the mantissa.
        least_exponent: of normal numbers; smaller numbers have the spacing of these.
    """

    mantissa_bits: int
    least_exponent: int

    def rounded(self, levels: NDArray[Floating]) -> NDArray[Floating]:
        """Round to ``mantissa_bits`` behind the first bit."""
        magnitudes = np.maximum(np.abs(levels), levels.dtype.type(2.0**self.least_exponent))
        _, exponents = np.frexp(magnitudes)  # of a fraction from ½ to 1
        last_bit = exponents - 1 - self.mantissa_bits
        whole: NDArray[Floating] = np.rint(np.ldexp(levels, -last_bit))
        return np.asarray(np.ldexp(whole, last_bit), dtype=levels.dtype)

    def held_scales(self, scales: NDArray[np.float64]) -> NDArray[np.float32]:
        """Round up to float16, in which the graph around float8 computes; to float32 what float16 does not hold.

        A scale that is too large costs a floating-point grid no precision.
        """
        with np.errstate(over="ignore"):
            half = scales.astype(np.float16)
        up = np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)
        return np.where(np.isfinite(up), up, scales.astype(np.float32))


UINT8 = IntegerGrid(0, 255, np.dtype(np.uint8))
INT8 = IntegerGrid(-127, 127, np.dtype(np.int8))
"""-128 stays unused, so that the grid is symmetric."""

FLOAT8 = FloatGrid(-448, 448, np.dtype(ml_dtypes.float8_e4m3fn), mantissa_bits=3, least_exponent=-6)
"""ONNX's ``FLOAT8E4M3FN``: no infinities."""
