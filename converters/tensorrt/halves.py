"""Constants and the scales of quantizers as float16 holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.metrics import sqnr_db

Halves = NDArray[np.float16]

MIN_SQNR_DB = 60.0
"""Of a constant in float16; the rounding of normal numbers leaves 74 dB."""

MOST_STRETCHED = 1.01
NEGLIGIBLE = 1e-3
ROUNDING = 2.0**-10


def holds(values: NDArray[Any]) -> bool:
    """Decide whether float16 holds constants: they neither overflow nor become so small that precision is lost."""
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        half = finite.astype(np.float16)
    return not np.any(finite) or sqnr_db(finite, half) >= MIN_SQNR_DB


def half_scales(scales: NDArray[Any]) -> Halves:
    """Round scales to float16, up where they would shrink by more than rounding, and above 0: no value saturates."""
    half = scales.astype(np.float16)
    return np.where(half < scales * (1 - ROUNDING), np.nextafter(half, np.float16(np.inf)), half).astype(np.float16)


def holds_scales(scales: NDArray[Any]) -> bool:
    """Decide whether float16 holds scales: the scales that matter grow by 1 % at most, and none overflows."""
    with np.errstate(over="ignore"):
        half = half_scales(scales).astype(np.float64)
    strong = scales >= NEGLIGIBLE * scales.max()
    return bool(np.isfinite(half).all() and (half[strong] <= MOST_STRETCHED * scales[strong]).all())


def rescaled(levels: NDArray[Any], scales: NDArray[Any], half: Halves, axis: int) -> NDArray[Any]:
    """Rescale levels: under the scales ``half`` they stand for the same values as under ``scales`` before.

    Args:
        levels: integer weights; others only where the scales stay as they are.
        scales: ``(channels,)``.
        half: ``(channels,)``, from ``half_scales``.
        axis: of the channels in ``levels``.
    """
    ratio = scales.astype(np.float64) / half.astype(np.float64)
    if (ratio == 1.0).all():
        return levels
    shape = [-1 if each == axis % levels.ndim else 1 for each in range(levels.ndim)]
    return np.rint(levels * ratio.reshape(shape)).astype(levels.dtype)
