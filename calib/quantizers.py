"""Uniform 8-bit quantizers: real numbers to integer levels and back.

``q = clip(round(x / scale) + zero_point, lowest, highest)`` and ``x ≈ (q − zero_point) · scale`` (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018); what ONNX's
QuantizeLinear and DequantizeLinear compute. Ties round to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8] | NDArray[np.int8]

WEIGHT_LEVELS = 127
"""Largest level of a weight; -128 stays unused, so that weights are symmetric."""


@dataclass(frozen=True)
class Quantizer:
    """One scale and one zero point for a whole tensor.

    Attributes:
        scale: distance of two levels, above 0.
        zero_point: the level that stands for 0, which is thus exact: padding and dead channels stay 0.
        signed: int8 levels, else uint8.
    """

    scale: float
    zero_point: int
    signed: bool

    @property
    def lowest(self) -> int:
        """Smallest level."""
        return -WEIGHT_LEVELS if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest level."""
        return WEIGHT_LEVELS if self.signed else 255

    def quantize(self, values: Floats) -> Levels:
        """Levels of any shape of float32 values; those out of range saturate."""
        levels = np.rint(values / np.float32(self.scale)) + self.zero_point
        clipped: Levels = np.clip(levels, self.lowest, self.highest).astype(np.int8 if self.signed else np.uint8)
        return clipped

    def dequantize(self, levels: Levels) -> Floats:
        """The float32 values that levels stand for."""
        return np.asarray((levels.astype(np.float32) - self.zero_point) * np.float32(self.scale), dtype=np.float32)

    def __call__(self, values: Floats) -> Floats:
        """Quantize and dequantize: the values as the quantized network sees them."""
        return self.dequantize(self.quantize(values))


def activation_quantizer(low: float, high: float, *, symmetric: bool) -> Quantizer:
    """The quantizer that covers a range, which is widened to hold 0.

    Args:
        low: smallest value, finite.
        high: largest value, finite.
        symmetric: int8 with zero point 0, as TensorRT demands; else uint8 with whatever zero point fits.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return Quantizer(_positive(max(-low, high) / WEIGHT_LEVELS), 0, signed=True)
    scale = _positive((high - low) / 255)
    return Quantizer(scale, int(np.clip(np.rint(-low / scale), 0, 255)), signed=False)


def weight_scales(weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """A symmetric scale for each output channel, ``(out,)``, of weights ``(out, in)``; 1 where all are zero."""
    peaks = np.abs(weight).max(axis=1)
    return np.where(peaks > 0, np.maximum(peaks / WEIGHT_LEVELS, np.finfo(np.float32).tiny), 1).astype(np.float32)


def round_weights(weight: NDArray[np.float64], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Nearest levels ``(out, in)`` of weights ``(out, in)`` under scales ``(out,)``."""
    return np.clip(np.rint(weight / scales[:, None]), -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8)


def _positive(scale: float) -> float:
    """A scale that float32 holds; 1 for a tensor that is always 0."""
    return float(np.float32(max(scale, float(np.finfo(np.float32).tiny)))) if scale > 0 else 1.0
