"""Axes that are resized, drawn at random, and the dense matrices of their taps."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.runtime.preprocess.taps import ResizeAxis, Taps


@st.composite
def axes(draw: st.DrawFn) -> ResizeAxis:
    source, resized = draw(st.integers(1, 700)), draw(st.integers(1, 300))
    start = draw(st.integers(0, resized - 1))
    return ResizeAxis(source, resized, start, draw(st.integers(start + 1, resized)))


def dense(taps: Taps) -> NDArray[np.float64]:
    """``(outputs, inputs)`` weights."""
    matrix = np.zeros((len(taps.first), taps.source))
    for row, first, weights in zip(matrix, taps.first, taps.weights, strict=True):
        part = row[first :: taps.stride]
        count = min(len(part), len(weights))
        part[:count] += weights[:count]
    return matrix
