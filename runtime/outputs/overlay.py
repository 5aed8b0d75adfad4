"""A prediction drawn onto its frame: a panel with the best three classes, the frame rate and the age."""

from __future__ import annotations

import time
import unicodedata
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from vitedge.extras import require
from vitedge.prediction import Image, Prediction
from vitedge.safety.escape import terminal

SHOWN_CLASSES = 3
SMALLEST_SIDE = 240
PANEL_OPACITY = 0.78
RATE_WINDOW = 30
LONGEST_TEXT = 500
"""Characters of a label that are considered; no frame has room for more."""

Colour = tuple[int, int, int]

# BGR, the channel order of the frames, which Pillow draws into as they are.
BACKGROUND: Colour = (22, 18, 18)
TEXT: Colour = (255, 255, 255)
MUTED: Colour = (188, 180, 176)
TRACK: Colour = (80, 72, 70)
BAR: Colour = (140, 190, 64)


@dataclass(frozen=True)
class Layout:
    """Sizes of the panel in pixels, multiples of one unit.

    Attributes:
        unit: height of small text.
        width: width of the panel.
        rows: number of classes below the best one.
    """

    unit: int
    width: int
    rows: int

    @property
    def padding(self) -> int:
        """Return the space inside the panel's edge."""
        return round(0.7 * self.unit)

    @property
    def title(self) -> int:
        """Return the height of the label's text."""
        return round(1.7 * self.unit)

    @property
    def heading(self) -> int:
        """Return the height of the best class: its text and the bar below it."""
        return self.title + round(1.3 * self.unit)

    @property
    def row(self) -> int:
        """Return the height of another class: its text and the bar below it."""
        return round(2.1 * self.unit)

    @property
    def height(self) -> int:
        """Return the height of the panel."""
        return 2 * self.padding + self.heading + self.rows * self.row + round(1.1 * self.unit)


def layout_for(height: int, width: int, rows: int) -> Layout:
    """Lay out a panel that is readable on a frame and leaves most of it free."""
    unit = max(11, round(min(height, 0.75 * width) / 30))
    return Layout(unit=unit, width=min(width, 21 * unit), rows=rows)


def annotate(prediction: Prediction, image: Image, *, fps: float | None = None) -> Image:
    """Draw a prediction into the upper left corner of a copy of its frame; mark an abstaining one as unsure.

    Args:
        prediction: the prediction to draw.
        image: ``H×W×3`` uint8 BGR, which is not modified. An image too small for text is enlarged by a whole factor.
        fps: predictions per second, shown beside the age of the frame.

    Returns:
        A new ``H×W×3`` uint8 BGR array.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    canvas = _enlarged(image)
    layout = layout_for(canvas.shape[0], canvas.shape[1], min(SHOWN_CLASSES, len(prediction.topk)) - 1)
    corner = canvas[: layout.height, : layout.width]
    corner[...] = _panel(corner, layout, prediction, _footer(prediction, fps))
    return canvas


def _enlarged(image: Image) -> Image:
    factor = -(-SMALLEST_SIDE // min(image.shape[:2]))
    if factor <= 1:
        return np.array(image)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _panel(background: Image, layout: Layout, prediction: Prediction, footer: str) -> Image:
    """Draw the panel over its background."""
    pillow = _pillow("Image")
    below = pillow.fromarray(np.ascontiguousarray(background))
    picture = pillow.blend(below, pillow.new("RGB", below.size, BACKGROUND), PANEL_OPACITY)
    draw = _pillow("ImageDraw").Draw(picture)
    top = layout.padding
    for rank, each in enumerate(prediction.topk[:SHOWN_CLASSES]):
        size, block = (layout.unit, layout.row) if rank else (layout.title, layout.heading)
        unsure = prediction.abstained and not rank
        counts = not unsure if prediction.accepted is None else each in prediction.accepted
        name, colour = (f"unsure: {each.label}", MUTED) if unsure else (each.label, TEXT)
        _line(draw, layout, top, size, name, _percent(each.score), colour)
        _bar(draw, layout, top + round(1.3 * size), each.score, BAR if counts else MUTED)
        top += block
    _line(draw, layout, top, round(0.9 * layout.unit), footer, "", MUTED)
    drawn: Image = np.asarray(picture)
    return drawn


def _line(draw: Any, layout: Layout, top: int, size: int, left: str, right: str, colour: Colour) -> None:
    font = _font(size)
    end = layout.width - layout.padding
    room = end - layout.padding
    if right:
        taken = font.getlength(right)
        draw.text((end - taken, top), right, font=font, fill=colour)
        room -= taken + layout.padding
    draw.text((layout.padding, top), _fitted(left, font, room), font=font, fill=colour)


def _bar(draw: Any, layout: Layout, top: int, score: float, colour: Colour) -> None:
    left, right = layout.padding, layout.width - layout.padding
    bottom = top + max(2, layout.unit // 4)
    draw.rectangle((left, top, right, bottom), fill=TRACK)
    filled = round((right - left) * min(1.0, max(0.0, score)))
    if filled:
        draw.rectangle((left, top, left + filled, bottom), fill=colour)


def _fitted(text: str, font: Any, room: float) -> str:
    """Shorten text to one line, with dots if it is too long, and leave out letters that the font lacks."""
    shown = terminal(text[:LONGEST_TEXT])
    plain = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode()[:LONGEST_TEXT] or "?"
    if font.getlength(plain) <= room:
        return plain
    while plain and font.getlength(f"{plain}...") > room:
        plain = plain[:-1]
    return f"{plain}..."


def _footer(prediction: Prediction, fps: float | None) -> str:
    rate = "" if fps is None else f"{fps:.1f} fps   "
    return f"{rate}age {prediction.age_ms:.0f} ms"


def _percent(score: float) -> str:
    return f"{100 * score:.1f} %"


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return _pillow("ImageFont").load_default(size)


def _pillow(module: str) -> Any:
    return require(f"PIL.{module}", extra="camera", purpose="drawing onto frames")


class RateMeter:
    """Events per second, over the last few events."""

    def __init__(self) -> None:
        self._ticks: deque[int] = deque(maxlen=RATE_WINDOW)

    def tick(self) -> float | None:
        """Count an event and return the rate; None before the second event. N ticks are N−1 intervals."""
        self._ticks.append(time.perf_counter_ns())
        elapsed = self._ticks[-1] - self._ticks[0]
        return (len(self._ticks) - 1) * 1e9 / elapsed if elapsed > 0 else None
