"""Plots for pages: axes and a grid as inline SVG, in the colours of ``vitedge.report.page``.

A plot is as wide as its page. Its text is laid out for a narrow page, where it takes most room, and is set smaller on
a wide one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.safety.escape import html

WIDTH, HEIGHT = 600, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 30, 42
FONT = 17
"""Height of text in the units of the drawing, on a narrow page."""
LETTER, LINE = 0.66 * FONT, 1.15 * FONT
"""Width of a digit and height of a line, so that no text covers another one."""

PLOT_STYLE = f"""
svg {{ width: 100%; height: auto; display: block; }} svg text {{ fill: var(--faint); font-size: {FONT}px; }}
@media (min-width: 700px) {{ svg text {{ font-size: 9px; }} }}
svg * {{ vector-effect: non-scaling-stroke; }}
.grid {{ stroke: var(--grid); }} .leader {{ stroke: var(--faint); stroke-width: .8; }}
.line {{ fill: none; stroke: currentColor; stroke-width: 1.8; }}
.bar {{ fill: currentColor; opacity: .45; }} .dot {{ fill: currentColor; opacity: .6; }}
.hollow {{ fill: var(--paper); stroke: currentColor; stroke-width: 1.8; }}
.mark {{ stroke: currentColor; stroke-dasharray: 4 3; }} .mark-name {{ fill: currentColor !important; }}
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
    lines, free_from = [], -math.inf
    for tick in axis.ticks():
        x, text = float(axis(tick)), f"{tick:.6g}"
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        half = LETTER * len(text) / 2
        if x - half > free_from and x + half < WIDTH:
            lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + FONT}" text-anchor="middle">{text}</text>')
            free_from = x + half + LETTER
    name = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{html(unit)}</text>'
    return "".join(lines) + name


def _grid_upward(axis: Axis, unit: str) -> str:
    lines, free_up_to = [], math.inf
    for tick in axis.ticks():
        y = float(axis(tick))
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if y <= free_up_to:
            lines.append(f'<text x="{LEFT - 6}" y="{y:.1f}" dy=".35em" text-anchor="end">{tick:.6g}</text>')
            free_up_to = y - FONT
    name = f'<text x="4" y="{FONT}">{html(unit)}</text>'
    return "".join(lines) + name


@dataclass(frozen=True)
class Label:
    """The text beside a point of a plot.

    Attributes:
        x: of the point.
        y: of the point.
        text: plain text.
        style: CSS classes.
    """

    x: float
    y: float
    text: str
    style: str


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def labelled(labels: Sequence[Label], points: Sequence[tuple[float, float]], radius: float) -> str:
    """Draw labels beside their points so that none covers another, a point, or the edge of the plot.

    A label that finds no room beside its point moves away and gets a line to it; one that finds none at all is left
    out.

    Args:
        labels: the most important first.
        points: ``(x, y)`` of all points.
        radius: of the points.
    """
    taken = [_Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    drawn = []
    for label in labels:
        for distance, box in _places(label, radius):
            if not any(box.meets(other) for other in taken):
                taken.append(box)
                drawn.append(_drawn(label, box, leader=distance > radius + NEAR))
                break
    return "".join(drawn)


NEAR = 4.0
"""Distance of a label from the edge of its point."""
_DIRECTIONS = ((1, -1), (1, 0), (-1, 0), (0, -1), (-1, -1), (0, 1), (1, 1), (-1, 1))
_RINGS = 6


def _places(label: Label, radius: float) -> Iterator[tuple[float, _Box]]:
    """Yield the distance from the point and the box of each place within the plot, the nearest first."""
    width, height = LETTER * len(label.text), LINE
    for ring, (right, down) in itertools.product(range(_RINGS), _DIRECTIONS):
        distance = radius + NEAR + ring * height
        x, y = label.x + right * (distance + width / 2), label.y + down * (distance + height / 2)
        box = _Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        inside = box.left >= LEFT and box.right <= WIDTH - RIGHT
        if inside and box.top >= TOP and box.bottom <= HEIGHT - BOTTOM:
            yield distance, box


def _drawn(label: Label, box: _Box, *, leader: bool) -> str:
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    near_x, near_y = min(max(label.x, box.left), box.right), min(max(label.y, box.top), box.bottom)
    ends = f'x1="{label.x:.1f}" y1="{label.y:.1f}" x2="{near_x:.1f}" y2="{near_y:.1f}"'
    line = f'<line class="leader" {ends}/>' if leader else ""
    return (
        f'{line}<text class="mark-name {label.style}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle" '
        f'dy=".35em">{html(label.text)}</text>'
    )


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
