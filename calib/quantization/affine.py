"""8-bit quantizers: real numbers to the levels of a grid and back.

``q = clip(round(x / scale) + zero_point, lowest, highest)`` and ``x ≈ (q − zero_point) · scale`` (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018); what ONNX's
QuantizeLinear and DequantizeLinear compute. Ties round to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.grid import FLOAT8, INT8, UINT8, Grid

Floats = NDArray[np.float32]
Levels = NDArray[Any]
"""Of the type of a grid."""

FLOAT8_HEADROOM = 4.0
"""For activations larger than any in calibration; a power of two costs a floating-point grid no precision."""


class Scheme(Enum):
    """The kind of levels that an engine's activations become.

    ``ASYMMETRIC`` is uint8 with whatever zero point fits; ``SYMMETRIC`` is int8 with a zero point of 0, which wastes
    half of the levels where values have one sign; ``SHIFTED`` subtracts the middle of the range before, and so
    uses all levels. The biases of the layers that read the values take the shift back. ``FLOAT8`` is e4m3, with levels
    for values larger than the range.
    """

    ASYMMETRIC = "uint8"
    SYMMETRIC = "int8"
    SHIFTED = "int8, shifted"
    FLOAT8 = "float8 (e4m3)"

    @property
    def weight_grid(self) -> Grid:
        """Return the symmetric grid of the weights that are multiplied with such activations."""
        return FLOAT8 if self is Scheme.FLOAT8 else INT8


@dataclass(frozen=True)
class Quantizer:
    """One scale and one zero point for a whole tensor. 0 is exact: padding and dead channels stay 0.

    Attributes:
        scale: value of the level 1, above 0.
        zero_point: the level that stands for 0, or for the shift where there is one.
        grid: the levels.
        shift: what is subtracted before, a multiple of the scale.
    """

    scale: float
    zero_point: int
    grid: Grid
    shift: float = 0.0

    def quantize(self, values: Floats) -> Levels:
        """Round float32 values of any shape to levels; values out of range saturate."""
        return self._rounded(values).astype(self.grid.dtype)

    def dequantize(self, levels: Levels) -> Floats:
        """Give the float32 values that levels stand for."""
        return self._values(levels.astype(np.float32))

    def __call__(self, values: Floats) -> Floats:
        """Quantize and dequantize: the values as the quantized network sees them."""
        return self._values(self._rounded(values))

    def _rounded(self, values: Floats) -> Floats:
        steps = values - np.float32(self.shift)
        steps /= np.float32(self.scale)
        return self.grid.nearest(steps, self.zero_point)

    def _values(self, levels: Floats) -> Floats:
        steps = levels - self.zero_point
        steps *= np.float32(self.scale)
        steps += np.float32(self.shift)
        return np.asarray(steps, dtype=np.float32)


def activation_quantizer(low: float, high: float, scheme: Scheme) -> Quantizer:
    """Give the quantizer that covers a range, which is widened to hold 0.

    Args:
        low: smallest value, finite.
        high: largest value, finite.
        scheme: the kind of quantizer.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme is Scheme.FLOAT8:
        return Quantizer(_scale(FLOAT8_HEADROOM * max(-low, high), FLOAT8), 0, FLOAT8)
    if scheme is Scheme.SYMMETRIC:
        return Quantizer(_scale(max(-low, high), INT8), 0, INT8)
    if scheme is Scheme.SHIFTED:
        scale = _scale((high - low) / 2, INT8)
        return Quantizer(scale, 0, INT8, shift=float(np.float32(np.rint((low + high) / 2 / scale) * scale)))
    scale = _scale(high - low, UINT8)
    return Quantizer(scale, int(np.clip(np.rint(-low / scale), 0, 255)), UINT8)


def weight_scales(weight: NDArray[np.float64], grid: Grid) -> NDArray[np.float32]:
    """Give a symmetric scale for each output channel, ``(out,)``, of weights ``(out, in)``; 1 where all are zero."""
    return grid.scales(np.abs(weight).max(axis=1))


def round_weights(weight: NDArray[np.float64], scales: NDArray[np.float32], grid: Grid) -> Levels:
    """Round weights ``(out, in)`` to the nearest levels ``(out, in)`` under scales ``(out,)``."""
    return grid.nearest(weight / scales[:, None]).astype(grid.dtype)


def dequantized(levels: Levels, scales: NDArray[np.float32]) -> Floats:
    """Give the float32 weights ``(out, in)`` that levels stand for under scales ``(out,)``."""
    return np.asarray(levels.astype(np.float32) * scales[:, None])


def _scale(peak: float, grid: Grid) -> float:
    """Return the scale that maps a magnitude to the largest level; 1 for a tensor that is always 0."""
    return float(grid.scales(np.array([peak]))[0])
