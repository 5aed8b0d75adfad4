"""The sensitivity of each int8 layer as JSON for scripts, as a table for people, and as plots for pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitedge.calib.sensitivity.result import Effect, LayerSensitivity, Sensitivity
from vitedge.counts import counted
from vitedge.metrics import SQNR_CAP_DB
from vitedge.records import encode
from vitedge.report.page import table, term
from vitedge.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Label, labelled, plot
from vitedge.safety.escape import html

SHOWN_LAYERS = 20
NUMBERED_DOTS = 6
HEADINGS = (
    "layer",
    "no.",
    "million products",
    "own output dB",
    "only it dB",
    "flips",
    "KL",
    "all but it dB",
    "flips",
    "KL",
)
TERMS = ("SQNR", "flip", "KL divergence")
"""Terms of the section, for the glossary of its page."""
RADIUS = 3.0
HALF = 0.5
NAMED_LAYERS = 5


def to_json(sensitivity: Sensitivity) -> dict[str, Any]:
    """Return plain JSON values: ``images``, ``whole`` and ``layers``, worst first; keys are the fields' names."""
    document: dict[str, Any] = encode(sensitivity)
    return {**document, "layers": [encode(layer) for layer in sensitivity.worst_first()]}


def lines(sensitivity: Sensitivity) -> Iterator[str]:
    """Render the table for a terminal, worst first."""
    yield f"layers on {counted(sensitivity.images, 'image')}, logits against fp32: {_summary(sensitivity)}"
    worst = sensitivity.worst_first()
    numbers = _numbers(sensitivity)
    rows = [HEADINGS, *(_cells(layer, numbers) for layer in worst[:SHOWN_LAYERS])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield "  ".join(
            [f"{first:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(others, widths[1:], strict=True))]
        )
    if len(worst) > SHOWN_LAYERS:
        hidden = len(worst) - SHOWN_LAYERS
        yield f"and {counted(hidden, 'layer')} that cost less; the JSON report lists all, the HTML report shows them"


def section(sensitivity: Sensitivity) -> str:
    """Render HTML: what costs most, two plots in the order of the graph, and a table of all layers, worst first."""
    numbers = _numbers(sensitivity)
    rows = (tuple(map(html, _cells(layer, numbers))) for layer in sensitivity.worst_first())
    whole = sensitivity.whole.sqnr_db
    return (
        f"<h2>Layers in int8</h2><p>{html(_costliest(sensitivity))} On {counted(sensitivity.images, 'image')}, logits "
        f"against fp32: {html(_summary(sensitivity))}. Layers are numbered in the order of the graph.</p>"
        f"<h2>Only this layer in int8</h2><p>{term('SQNR')} of the logits: layers that lie low cost most, layers on "
        "the upper edge next to nothing.</p>"
        f"{_plot(sensitivity.layers, lambda each: each.only.sqnr_db, base=None)}"
        f"<h2>All but this layer in int8</h2><p>What the {term('SQNR')} of the logits gains if this layer stays in "
        "floating point: layers that stand high gain most.</p>"
        f"{_plot(sensitivity.layers, lambda each: each.all_but.sqnr_db - whole, base=0.0)}"
        f"<h2>All layers, worst first</h2>{table(_linked_headings(), rows)}"
    )


def _linked_headings() -> tuple[str, ...]:
    linked = {"flips": term("flip", "flips"), "KL": term("KL divergence", "KL")}
    return tuple(linked.get(heading, html(heading)) for heading in HEADINGS)


def _costliest(sensitivity: Sensitivity) -> str:
    """Name the layers that make half of the noise, alone and summed."""
    worst = sensitivity.worst_first()
    noise = np.cumsum([layer.noise for layer in worst])
    if sensitivity.whole.sqnr_db >= SQNR_CAP_DB or not noise[-1] > 0:
        return "int8 costs nothing here."
    count = int(np.searchsorted(noise, HALF * noise[-1])) + 1
    names = ", ".join(layer.name for layer in worst[: min(count, NAMED_LAYERS)])
    more = f" and {count - NAMED_LAYERS} more" if count > NAMED_LAYERS else ""
    verb = "makes" if count == 1 else "make"
    return f"{count} of {counted(len(worst), 'layer')} {verb} half of the noise: {names}{more}."


def _summary(sensitivity: Sensitivity) -> str:
    whole = sensitivity.whole
    return (
        f"with all {counted(len(sensitivity.layers), 'layer')} in int8 {_decibels(whole.sqnr_db)} dB, "
        f"{whole.flips} flip{'' if whole.flips == 1 else 's'}, KL {whole.kl:.2g}"
    )


def _numbers(sensitivity: Sensitivity) -> dict[str, int]:
    """Number the layers from 1 in the order of the graph."""
    return {layer.name: number for number, layer in enumerate(sensitivity.layers, 1)}


def _cells(layer: LayerSensitivity, numbers: Mapping[str, int]) -> tuple[str, ...]:
    return (
        layer.name,
        str(numbers[layer.name]),
        f"{layer.multiplications / 1e6:.2f}",
        _decibels(layer.output_sqnr_db),
        *_effect(layer.only),
        *_effect(layer.all_but),
    )


def _effect(effect: Effect) -> tuple[str, str, str]:
    return _decibels(effect.sqnr_db), str(effect.flips), f"{effect.kl:.2g}"


def _decibels(value: float) -> str:
    return "exact" if value >= SQNR_CAP_DB else f"{value:.1f}"


def _plot(layers: Sequence[LayerSensitivity], value: Callable[[LayerSensitivity], float], *, base: float | None) -> str:
    """Draw a dot for each layer, on a stem from ``base`` if there is one, and number the largest."""
    values = [value(layer) for layer in layers]
    shown = np.array([each for each in values if abs(each) < SQNR_CAP_DB / 2] or [0.0])
    low, high = float(min(shown.min(), shown.min() if base is None else base)), float(shown.max())
    room = max(0.08 * (high - low), 0.1)
    across = Axis(0.0, len(layers) + 1.0, LEFT, WIDTH - RIGHT)
    upward = Axis(low - room, high + room, HEIGHT - BOTTOM, TOP)
    order = np.argsort(values) if base is None else np.argsort(values)[::-1]
    foot = None if base is None else float(upward(base))
    dots, labels = [], []
    for at, (layer, each) in enumerate(zip(layers, values, strict=True)):
        x, y = float(across(at + 1.0)), float(upward(float(np.clip(each, low - room, high + room))))
        dots.append(_dot(x, y, layer.name, each, foot))
        labels.append(Label(x, y, str(at + 1), "series1"))
    outstanding = [labels[at] for at in order[:NUMBERED_DOTS]]
    numbers = labelled(outstanding, [(each.x, each.y) for each in labels], RADIUS)
    return plot(across, upward, "".join(dots) + numbers, units=("layer", "dB"))


def _dot(x: float, y: float, name: str, value: float, base: float | None) -> str:
    stem = (
        "" if base is None else f'<line class="line series0" x1="{x:.1f}" x2="{x:.1f}" y1="{base:.1f}" y2="{y:.1f}"/>'
    )
    title = f"<title>{html(name)}: {value:.2f} dB</title>"
    return f'{stem}<circle class="dot series0" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:g}">{title}</circle>'
