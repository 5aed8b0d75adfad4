"""Uniform 8-bit quantizers: real numbers to integer levels and back.

``q = clip(round(x / scale) + zero_point, lowest, highest)`` and ``x ≈ (q − zero_point) · scale`` (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018); what ONNX's
QuantizeLinear and DequantizeLinear compute. Ties round to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8] | NDArray[np.int8]

WEIGHT_LEVELS = 127
"""Largest level of a weight; -128 stays unused, so that weights are symmetric."""


class Scheme(Enum):
    """The kind of integers that an engine's activations become.

    ``ASYMMETRIC`` is uint8 with whatever zero point fits; ``SYMMETRIC`` is int8 with a zero point of 0, which wastes
    half of the levels where values have one sign; ``SHIFTED`` subtracts the middle of the range before, and so
    uses all levels. The biases of the layers that read the values take the shift back.
    """

    ASYMMETRIC = "uint8"
    SYMMETRIC = "int8"
    SHIFTED = "int8, shifted"


@dataclass(frozen=True)
class Quantizer:
    """One scale and one zero point for a whole tensor. 0 is exact: padding and dead channels stay 0.

    Attributes:
        scale: distance of two levels, above 0.
        zero_point: the level that stands for 0, or for the shift where there is one.
        signed: int8 levels, else uint8.
        shift: what is subtracted before, a multiple of the scale.
    """

    scale: float
    zero_point: int
    signed: bool
    shift: float = 0.0

    @property
    def lowest(self) -> int:
        """Smallest level."""
        return -WEIGHT_LEVELS if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest level."""
        return WEIGHT_LEVELS if self.signed else 255

    def quantize(self, values: Floats) -> Levels:
        """Round float32 values of any shape to levels; values out of range saturate."""
        levels = np.rint((values - np.float32(self.shift)) / np.float32(self.scale)) + self.zero_point
        clipped: Levels = np.clip(levels, self.lowest, self.highest).astype(np.int8 if self.signed else np.uint8)
        return clipped

    def dequantize(self, levels: Levels) -> Floats:
        """Give the float32 values that levels stand for."""
        steps = levels.astype(np.float32) - self.zero_point
        return np.asarray(steps * np.float32(self.scale) + np.float32(self.shift), dtype=np.float32)

    def __call__(self, values: Floats) -> Floats:
        """Quantize and dequantize: the values as the quantized network sees them."""
        return self.dequantize(self.quantize(values))


def activation_quantizer(low: float, high: float, scheme: Scheme) -> Quantizer:
    """Give the quantizer that covers a range, which is widened to hold 0.

    Args:
        low: smallest value, finite.
        high: largest value, finite.
        scheme: the kind of quantizer.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme is Scheme.SYMMETRIC:
        return Quantizer(_positive(max(-low, high) / WEIGHT_LEVELS), 0, signed=True)
    if scheme is Scheme.SHIFTED:
        scale = _positive((high - low) / (2 * WEIGHT_LEVELS))
        return Quantizer(scale, 0, signed=True, shift=float(np.float32(np.rint((low + high) / 2 / scale) * scale)))
    scale = _positive((high - low) / 255)
    return Quantizer(scale, int(np.clip(np.rint(-low / scale), 0, 255)), signed=False)


def weight_scales(weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """Give a symmetric scale for each output channel, ``(out,)``, of weights ``(out, in)``; 1 where all are zero."""
    peaks = np.abs(weight).max(axis=1)
    return np.where(peaks > 0, np.maximum(peaks / WEIGHT_LEVELS, np.finfo(np.float32).tiny), 1).astype(np.float32)


def round_weights(weight: NDArray[np.float64], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round weights ``(out, in)`` to the nearest levels ``(out, in)`` under scales ``(out,)``."""
    return np.clip(np.rint(weight / scales[:, None]), -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8)


def _positive(scale: float) -> float:
    """A scale that float32 holds; 1 for a tensor that is always 0."""
    return float(np.float32(max(scale, float(np.finfo(np.float32).tiny)))) if scale > 0 else 1.0
