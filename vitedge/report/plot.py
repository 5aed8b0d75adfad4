"""Plots for pages: axes and a grid as inline SVG, in the colours of ``vitedge.report.page``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.safety.escape import html

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 10, 34

PLOT_STYLE = """
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--faint); }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; }
.bar { fill: currentColor; opacity: .45; } .dot { fill: currentColor; opacity: .5; }
.mark { stroke: currentColor; stroke-dasharray: 4 3; } .mark-name { fill: currentColor !important; }
"""


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, linearly or logarithmically."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool = False

    def __call__(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Map values to pixels."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(values) - low) / (high - low)
        return np.asarray(self.first + share * (self.last - self.first))

    def ticks(self) -> list[float]:
        """Choose round values within the axis."""
        ticks = _logarithmic_ticks(self.low, self.high) if self.logarithmic else _linear_ticks(self.low, self.high)
        return [tick for tick in ticks if self.low <= tick <= self.high]

    def _scaled(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return np.log10(values) if self.logarithmic else np.asarray(values, dtype=np.float64)


def plot(across: Axis, upward: Axis, content: str, *, units: tuple[str, str]) -> str:
    """Draw an SVG as wide as the page.

    Args:
        across: from left to right, its pixels from ``LEFT`` to ``WIDTH - RIGHT``.
        upward: from bottom to top, its pixels from ``HEIGHT - BOTTOM`` to ``TOP``.
        content: SVG elements.
        units: of the two axes.
    """
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{_grid_across(across, units[0])}'
        f"{_grid_upward(upward, units[1])}{content}</svg>"
    )


def _grid_across(axis: Axis, unit: str) -> str:
    lines = []
    for tick in axis.ticks():
        x = float(axis(tick))
        lines.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.6g}</text>'
        )
    name = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html(unit)}</text>'
    return "".join(lines) + name


def _grid_upward(axis: Axis, unit: str) -> str:
    lines = []
    for tick in axis.ticks():
        y = float(axis(tick))
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>'
        )
    name = f'<text x="4" y="{TOP + 10}">{html(unit)}</text>'
    return "".join(lines) + name


def from_zero(high: float) -> Axis:
    """Make a vertical axis from 0 to slightly above ``high``."""
    return Axis(0.0, high * 1.08, HEIGHT - BOTTOM, TOP)


def _linear_ticks(low: float, high: float) -> list[float]:
    """Choose about six multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2 and 5 times powers of ten, or linear values if fewer than three of these fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return ticks if sum(low <= tick <= high for tick in ticks) >= 3 else _linear_ticks(low, high)
