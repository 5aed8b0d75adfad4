"""A latency measurement as one HTML page with inline plots, which loads nothing from elsewhere.

Latency axes are logarithmic, so that the tail is on them and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vitedge.counts import counted
from vitedge.report.page import glossary, page, table, term, verdict
from vitedge.report.plot import (
    BOTTOM,
    FONT,
    HEIGHT,
    LEFT,
    PLOT_STYLE,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Label,
    from_zero,
    labelled,
    plot,
)
from vitedge.runtime.bench.measure import BenchReport, Measurement
from vitedge.runtime.bench.ratio import Ratio
from vitedge.runtime.bench.text import STAGES, latency_ms, percentiles, to_text
from vitedge.runtime.bench.timing import Samples
from vitedge.safety.escape import html

BINS = 120
CURVE_POINTS = 400
MOST_DOTS = 6000
SLOWEST_PERCENT = 1.0


def to_html(report: BenchReport) -> str:
    """Render the page."""
    measured = [report.measurement] if report.against is None else [report.measurement, report.against]
    latency = _latency_axis([each.samples for each in measured])
    sections = [
        verdict(_verdict(report)),
        _heading(measured),
        _table(measured),
        _section("Distribution", "Share of calls by latency; dashed: p50 and p99.", _histogram(measured, latency)),
        _section("Cumulative", "Share of calls that took no longer.", _cumulative(measured, latency)),
        _section("Over time", _dots_note(measured), _over_time(measured)),
        f"<h2>As text</h2><pre>{html(to_text(report))}</pre>",
        glossary("p50", "p99"),
    ]
    return page(f"Latency of {report.measurement.model}", sections, style=PLOT_STYLE)


def _verdict(report: BenchReport) -> str:
    """Render what half and 99 of 100 calls take, and which bundle is faster."""
    latency = latency_ms(report.measurement.samples)
    taken = (
        f"<strong>{html(report.measurement.bundle)}</strong>: half of the calls take at most "
        f"<strong>{latency['p50']:.3g} ms</strong>, 99 of 100 at most {latency['p99']:.3g} ms."
    )
    return taken if report.ratio is None else f"{taken} {_ratio_text(report.ratio)}"


def _heading(measured: Sequence[Measurement]) -> str:
    lines = []
    for number, each in enumerate(measured):
        info = each.info
        what = f"{each.model}, {info.effective_precision} on {info.device} ({info.name} {info.version})"
        key = f'<span class="key series{number}">■ {html(each.bundle)}</span>'
        state = "" if each.stable else " — latency was <strong>not stable</strong>"
        lines.append(f"<p>{key} {html(what)}{state}</p>")
    return "\n".join(lines)


def _table(measured: Sequence[Measurement]) -> str:
    headings = ("ms", term("p50"), "p90", term("p99"), "min", "mean", "frames/s")
    return table(headings, (row for number, each in enumerate(measured) for row in _rows(number, each)))


def _rows(number: int, measurement: Measurement) -> Iterator[tuple[str, ...]]:
    latency = latency_ms(measurement.samples)
    figures = (f"{latency[key]:.3f}" for key in ("p50", "p90", "p99", "min", "mean"))
    yield f'<span class="key series{number}">latency</span>', *figures, f"{measurement.throughput_fps:.1f}"
    for stage in STAGES:
        times = percentiles(getattr(measurement.samples, stage), 50, 90, 99)
        yield stage, *(f"{value:.3f}" for value in times.values()), "", "", ""


def _ratio_text(ratio: Ratio) -> str:
    return (
        f"Its p50 is <strong>{ratio.p50:.3f}</strong> times the other's ({ratio.stated_confidence:.3g} % interval "
        f"{ratio.low:.3f} to {ratio.high:.3f}, from {counted(len(ratio.rounds), 'round')} in which the two took turns)."
    )


def _section(title: str, note: str, plot: str) -> str:
    return f"<h2>{title}</h2><p>{note}</p>{plot}"


def _latency_axis(series: Sequence[Samples]) -> Axis:
    low = min(float(each.milliseconds.min()) for each in series)
    high = max(float(each.milliseconds.max()) for each in series)
    return Axis(low / 1.02, high * 1.02, LEFT, WIDTH - RIGHT, logarithmic=True)


def _histogram(measured: Sequence[Measurement], latency: Axis) -> str:
    edges = np.geomspace(latency.low, latency.high, BINS + 1)
    counts = [np.histogram(each.samples.milliseconds, edges)[0] for each in measured]
    shares = [100.0 * count / count.sum() for count in counts]
    share = from_zero(max(float(each.max()) for each in shares))
    outlines = [_steps(latency(edges), share(each)) for each in shares]
    bars = [f'<path class="bar series{number}" d="{outline}"/>' for number, outline in enumerate(outlines)]
    marked = [mark for number, each in enumerate(measured) for mark in _marks(number, each.samples, latency)]
    names = labelled([name for _, name in marked], [], 0.0)
    return plot(latency, share, "".join((*bars, *(line for line, _ in marked), names)), units=("ms", "%"))


def _marks(number: int, samples: Samples, latency: Axis) -> Iterator[tuple[str, Label]]:
    """Draw p50 and p99 as dashed lines with their names on top."""
    for name, value in percentiles(samples.milliseconds, 50, 99).items():
        x = float(latency(value))
        line = f'<line class="mark series{number}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield line, Label(x, TOP + FONT / 2, f"{name} {value:.3g}", f"series{number}")


def _cumulative(measured: Sequence[Measurement], latency: Axis) -> str:
    share = from_zero(100.0)
    percents = np.concatenate([np.linspace(0, 99, CURVE_POINTS), np.linspace(99, 100, CURVE_POINTS)])
    curves = [
        f'<polyline class="line series{number}" points="'
        f'{_points(latency(np.percentile(each.samples.milliseconds, percents)), share(percents))}"/>'
        for number, each in enumerate(measured)
    ]
    return plot(latency, share, "".join(curves), units=("ms", "%"))


def _over_time(measured: Sequence[Measurement]) -> str:
    begun = min(int(each.samples.begun[0]) for each in measured)
    last = max(float(each.samples.begun[-1] - begun) / 1e9 for each in measured)
    seconds = Axis(0.0, max(last, 1e-3), LEFT, WIDTH - RIGHT)
    upward = _latency_axis([each.samples for each in measured])
    latency = Axis(upward.low, upward.high, HEIGHT - BOTTOM, TOP, logarithmic=True)
    dots = []
    for number, each in enumerate(measured):
        shown = _shown(each.samples)
        x = seconds((each.samples.begun[shown] - begun) / 1e9)
        y = latency(each.samples.milliseconds[shown])
        path = "".join(f"M{a:.1f} {b:.1f}h1.6v1.6h-1.6z" for a, b in zip(x, y, strict=True))
        dots.append(f'<path class="dot series{number}" d="{path}"/>')
    return plot(seconds, latency, "".join(dots), units=("s", "ms"))


def _shown(samples: Samples) -> NDArray[np.intp]:
    """Choose the calls to draw: all calls, or evenly spaced calls and the slowest percent."""
    if len(samples) <= MOST_DOTS:
        return np.arange(len(samples))
    slow = np.flatnonzero(samples.total >= np.percentile(samples.total, 100 - SLOWEST_PERCENT))
    return np.union1d(slow, np.linspace(0, len(samples) - 1, MOST_DOTS).astype(np.intp))


def _dots_note(measured: Sequence[Measurement]) -> str:
    if max(len(each.samples) for each in measured) <= MOST_DOTS:
        return "Every call."
    return f"Of each bundle {MOST_DOTS} evenly spaced calls, and the slowest {SLOWEST_PERCENT:g} % of all."


def _steps(edges: NDArray[np.float64], tops: NDArray[np.float64]) -> str:
    """Draw the outline of bars between edges, in pixels."""
    base = HEIGHT - BOTTOM
    corners = "".join(f"V{top:.1f}H{right:.1f}" for top, right in zip(tops.tolist(), edges[1:].tolist(), strict=True))
    return f"M{edges[0]:.1f} {base}{corners}V{base}Z"


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
