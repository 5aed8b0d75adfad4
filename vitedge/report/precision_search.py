"""The search of the precision ``auto`` as JSON and as a page with its Pareto front; the bundle keeps both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitedge.bundle.bundle import REPORT_HTML, REPORT_JSON
from vitedge.bundle.precision_records import AutoRecord, CandidateRecord
from vitedge.calib.sensitivity.result import Sensitivity
from vitedge.records import encode
from vitedge.report import sensitivity as sensitivity_report
from vitedge.report.page import glossary, page, table, term, verdict
from vitedge.report.plot import BOTTOM, HEIGHT, LEFT, PLOT_STYLE, RIGHT, TOP, WIDTH, Axis, Label, labelled, plot
from vitedge.safety.escape import html, json
from vitedge.version import VERSION

JSON_VERSION = 1
RADIUS = 4.0
FP32 = "fp32"
UNKNOWN_STRIP = 22
"""Height of the strip on top of the plot for candidates whose loss was not measured."""


def write(folder: Path, model: str, record: AutoRecord, sensitivity: Sensitivity) -> None:
    """Write the JSON and the page into the folder of a bundle."""
    document = json(to_json(record, sensitivity), indent=1)
    (folder / REPORT_JSON).write_text(document + "\n", encoding="utf-8")
    (folder / REPORT_HTML).write_text(to_html(model, record, sensitivity), encoding="utf-8")


def to_json(record: AutoRecord, sensitivity: Sensitivity) -> dict[str, Any]:
    """Encode the contract, the candidates, with ``pareto`` for those on the front, and the layers.

    Keys are added, never renamed.
    """
    front = pareto(record.candidates)
    return {
        "version": JSON_VERSION,
        "vitedge_version": VERSION,
        "contract": encode(record.contract),
        "chosen": record.chosen,
        "candidates": [{**encode(each), "pareto": each in front} for each in record.candidates],
        "layers": sensitivity_report.to_json(sensitivity),
    }


def to_html(model: str, record: AutoRecord, sensitivity: Sensitivity) -> str:
    """Render the page."""
    sections = [
        verdict(_verdict(record)),
        "<h2>Latency and loss</h2><p>A dot is a candidate, with its number in the table; the line joins the candidates "
        f"that no other beats in both. Dashed: the largest loss that the contract allows.{_unknown_note(record)}</p>",
        _front(record),
        _table(record),
        sensitivity_report.section(sensitivity),
        glossary("p50", "p99", "95 % interval", *sensitivity_report.TERMS),
    ]
    return page(f"How the precision of {model} was chosen", sections, style=PLOT_STYLE)


def _verdict(record: AutoRecord) -> str:
    """Render the choice, and how much faster than fp32 it is."""
    times = {each.name: each.p50_ms for each in record.candidates}
    chosen, reference = times.get(record.chosen), times.get(FP32)
    faster = ""
    if chosen and reference and record.chosen != FP32:
        faster = f" fp32 takes {reference / chosen:.2f} times as long."
    return f"<strong>Chosen:</strong> {html(record.summary)}.{faster}"


def _unknown_note(record: AutoRecord) -> str:
    if all(each.loss is not None for each in record.candidates):
        return ""
    return " Hollow, on the upper edge: only the latency was measured."


def pareto(trials: Sequence[CandidateRecord]) -> tuple[CandidateRecord, ...]:
    """Choose the candidates that no other candidate beats in both p50 and loss, from the fastest on."""
    known = [each for each in trials if each.loss is not None]
    return tuple(each for each in known if not any(_beats(other, each) for other in known))


def _front(record: AutoRecord) -> str:
    known = [each for each in record.candidates if each.loss is not None]
    losses = [0.0, record.contract.max_drop, *(_loss(each) for each in known)]
    times = [each.p50_ms for each in record.candidates]
    room = max(0.05 * (max(losses) - min(losses)), 0.05)
    top = TOP + (0 if len(known) == len(record.candidates) else UNKNOWN_STRIP)
    across = Axis(0.94 * min(times), 1.06 * max(times), LEFT, WIDTH - RIGHT)
    upward = Axis(min(losses) - room, max(losses) + room, HEIGHT - BOTTOM, top)
    limit = float(upward(record.contract.max_drop))
    front = " ".join(_at(each, across, upward) for each in pareto(record.candidates))
    dots = list(_dots(record, across, upward))
    labels = [label for _, label in dots]
    content = (
        f'<line class="mark series1" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{limit:.1f}" y2="{limit:.1f}"/>'
        f'<polyline class="line series0" points="{front}"/>{"".join(circle for circle, _ in dots)}'
        f"{labelled(labels, [(each.x, each.y) for each in labels], RADIUS)}"
    )
    return plot(across, upward, content, units=("p50 ms", f"loss, {record.contract.unit}"))


def _dots(record: AutoRecord, across: Axis, upward: Axis) -> Iterator[tuple[str, Label]]:
    """Draw the candidates with their numbers in the table."""
    for number, each in enumerate(record.candidates, 1):
        x = float(across(each.p50_ms))
        y = TOP + UNKNOWN_STRIP / 2 if each.loss is None else float(upward(each.loss))
        series = "series1" if each.name == record.chosen else "series0"
        drawn = "hollow" if each.loss is None else "dot"
        circle = (
            f'<circle class="{drawn} {series}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:g}">'
            f"<title>{html(each.name)}</title></circle>"
        )
        yield circle, Label(x, y, str(number), series)


def _at(candidate: CandidateRecord, across: Axis, upward: Axis) -> str:
    return f"{float(across(candidate.p50_ms)):.1f},{float(upward(_loss(candidate))):.1f}"


def _loss(candidate: CandidateRecord) -> float:
    """Return the loss of a candidate whose loss was measured."""
    assert candidate.loss is not None
    return candidate.loss


def _table(record: AutoRecord) -> str:
    unit = html(record.contract.unit)
    headings = (
        "candidate",
        "no.",
        f"{term('p50')}, ms",
        f"{term('p99')}, ms",
        f"loss, {unit}",
        f"at most, {unit} (95 %)",
        "int8 layers that run in int8",
    )
    rows = (_row(at, each, chosen=each.name == record.chosen) for at, each in enumerate(record.candidates, 1))
    floats = "".join(
        f"<li>{html(each.name)}: {html(', '.join(each.float_layers))}</li>"
        for each in record.candidates
        if each.float_layers
    )
    return table(headings, rows) + (f"<h2>Layers that stay in 16 bits</h2><ul>{floats}</ul>" if floats else "")


def _row(number: int, candidate: CandidateRecord, *, chosen: bool) -> tuple[str, ...]:
    name = html(candidate.name)
    return (
        f'<span class="key series1">{name}</span>' if chosen else name,
        str(number),
        f"{candidate.p50_ms:.3f}",
        f"{candidate.p99_ms:.3f}",
        "not measured" if candidate.loss is None else f"{candidate.loss:.2f}",
        "" if candidate.loss_bound is None else f"{candidate.loss_bound:.2f}",
        candidate.int8_counts,
    )


def _beats(one: CandidateRecord, other: CandidateRecord) -> bool:
    ours, theirs = ((each.p50_ms, math.inf if each.loss is None else each.loss) for each in (one, other))
    return ours != theirs and ours[0] <= theirs[0] and ours[1] <= theirs[1]
