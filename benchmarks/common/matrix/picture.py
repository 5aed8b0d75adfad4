"""The picture of the page: time against SQNR, a dot for each model and way to run it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.matrix.comparison import NNCF, NNCF_UNSMOOTHED, OPENVINO, PeerComparison
from vitedge.report.plot import Axis
from vitedge.safety.escape import html

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 390, 430, 34, 10, 82, 42
"""Pixels, for a telephone: a browser shows the picture as it is."""
STYLE = (
    "svg{--ink:#1b1f24;--faint:#68707a;--grid:#d9dde2;--paper:#fff;--ours:#0b6bcb;--peer:#c2541b}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6e9ed;--faint:#9aa3ad;--grid:#343b43;--paper:#15181c;--ours:#5aa9f5;"
    "--peer:#f0925a}}"
    "text{font:12px system-ui,sans-serif;fill:var(--ink)}.faint{fill:var(--faint)}.grid{stroke:var(--grid)}"
    ".paper{fill:var(--paper)}.ours{color:var(--ours)}.peer{color:var(--peer)}.plain{color:var(--faint)}"
    ".full{fill:currentColor;fill-opacity:.65}.hollow{fill:none;stroke:currentColor;stroke-width:1.4}"
)


@dataclass(frozen=True)
class Series:
    """How the dots of one way look.

    Attributes:
        way: name of the contender.
        label: in the legend.
        side: ``ours``, ``peer``, or ``plain`` for a peer without int8.
        mark: ``full`` or ``hollow``.
    """

    way: str
    label: str
    side: str
    mark: str


SERIES = (
    Series("int8", "vitedge int8", "ours", "full"),
    Series("fp16", "vitedge fp16", "ours", "hollow"),
    Series(NNCF, NNCF, "peer", "full"),
    Series(NNCF_UNSMOOTHED, NNCF_UNSMOOTHED, "peer", "hollow"),
    Series(OPENVINO, OPENVINO, "plain", "hollow"),
)


@dataclass(frozen=True)
class Dot:
    """A way to run a model in the picture.

    Attributes:
        series: its look.
        name: of the model.
        trained: drawn larger.
        share: its time over the time of OpenVINO's own IR in 16 bits.
        sqnr_db: of its logits; drawn at 0 below that.
    """

    series: Series
    name: str
    trained: bool
    share: float
    sqnr_db: float


def dots(compared: Mapping[str, PeerComparison | None], trained: frozenset[str]) -> Iterator[Dot]:
    """Give the dots of all models that have times."""
    measured = {name: each for name, each in compared.items() if each is not None}
    for name, each in measured.items():
        base = each.rounds(OPENVINO)
        for series in SERIES if base else ():
            if rounds := each.rounds(series.way):
                shares = [mine / other for mine, other in zip(rounds, base, strict=True)]
                sqnr_db = each.contenders[series.way].sqnr_db
                yield Dot(series, name, name in trained, statistics.median(shares), sqnr_db)


def picture_of(drawn: Sequence[Dot]) -> str:
    """Draw time against SQNR as an SVG of its own, in the colours of a light or a dark page.

    Raises:
        ValueError: there are no dots.
    """
    shares, levels = [each.share for each in drawn], [max(0.0, each.sqnr_db) for each in drawn]
    across = Axis(0.9 * min(shares), 1.1 * max(1.0, *shares), LEFT, WIDTH - RIGHT, logarithmic=True)
    upward = Axis(5 * math.floor(min(levels) / 5), 5 * math.ceil(max(levels) / 5 + 0.2), HEIGHT - BOTTOM, TOP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img"><title>Time against SQNR</title><style>{STYLE}</style>'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>{_legend()}{_grid(across, upward)}'
        f"{''.join(_dot(each, across, upward) for each in drawn)}</svg>\n"
    )


def _legend() -> str:
    places = ((LEFT, 16), (LEFT, 34), (LEFT + 130, 16), (LEFT + 130, 34), (LEFT + 130, 52))
    return "".join(
        f'<circle class="{each.side} {each.mark}" cx="{x + 5}" cy="{y - 4}" r="5"/>'
        f'<text x="{x + 15}" y="{y}">{html(each.label)}</text>'
        for each, (x, y) in zip(SERIES, places, strict=True)
    )


def _grid(across: Axis, upward: Axis) -> str:
    foot = HEIGHT - BOTTOM
    lines = [f'<text class="faint" x="2" y="{TOP - 8}">SQNR, dB (large dots: trained)</text>']
    lines += [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="faint" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>'
        for tick in upward.ticks()
        for y in [float(upward(tick))]
    ]
    lines += [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{foot}"/>'
        f'<text class="faint" x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{tick:.6g}</text>'
        for tick in across.ticks()
        for x in [float(across(tick))]
    ]
    name = "time ÷ OpenVINO 16-bit on its own IR"
    return "".join(lines) + f'<text class="faint" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{name}</text>'


def _dot(dot: Dot, across: Axis, upward: Axis) -> str:
    told = html(f"{dot.name}, {dot.series.label}: {dot.share:.2f}, {dot.sqnr_db:.1f} dB")
    x, y = float(across(dot.share)), float(upward(max(0.0, dot.sqnr_db)))
    return (
        f'<circle class="{dot.series.side} {dot.series.mark}" cx="{x:.1f}" cy="{y:.1f}" r="{6 if dot.trained else 3}">'
        f"<title>{told}</title></circle>"
    )
