"""The page of the matrix: a table for each family, what is missing, and the peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.families import FAMILIES
from common.matrix.peer_page import geometric_means, table
from common.matrix.picture import dots, picture_of
from common.matrix.rows import PRECISIONS, ROUNDS, Conversion, Row, by_family, has_other_quantizer, rows_of

PICTURE = "images/models.svg"
"""Seen from the page."""
LARGEST_GAP_DB = 10.0
"""Target: no int8 is further behind 16 bits."""
HEADINGS = (
    "model",
    "input",
    "M parameters",
    "GMACs",
    "fp32 graph, dB",
    "fp16",
    "int8",
    "gap, dB",
    "16-bit layers",
    "fp32 speed-up",
    "fp16 speed-up",
    "int8 speed-up",
    "fp32 MB",
    "int8 MB",
    "int8 CPU s",
    "what failed",
)


def page_text(report: Mapping[str, Any]) -> str:
    """Write the text of ``docs/models.md``."""
    rows = rows_of(report)
    worked = sum(not each.failed for row in rows for each in row.conversions.values())
    lines = [
        "# Models",
        "",
        "Written by `benchmarks/matrix.py`; no row was typed by hand.",
        "",
        *measurements(rows),
        f"{len(rows)} models in {len(PRECISIONS)} precisions: {worked} of {len(rows) * len(PRECISIONS)} conversions "
        f"succeeded.{not_run(rows)}{other_quantizers(rows)}",
        "",
        "- *fp32 graph, dB*: the FP32 graph against PyTorch, SQNR of the logits; 80 dB is float32's own rounding.",
        f"- *fp16*, *int8*: the compiled engine against the FP32 graph on the {report['images']} photos that int8 was "
        "calibrated on: SQNR and share of equal top-1.",
        "- *gap, dB*: how far int8 is behind fp16, the difference of their SQNR; *16-bit layers*: how many layers int8 "
        "leaves in 16 bits because they would widen it (`docs/quantization.md`).",
        "- *speed-up*: how many times faster than ONNX Runtime in fp32 on the same rewritten graph; median of "
        f"{ROUNDS} rounds in turns (smallest-largest).",
        "- *int8 CPU s*: CPU seconds that the conversion took; other programs on the machine do not change them.",
        "",
        "Only the models under *trained* have weights from training. The others have random weights, whose SQNR and "
        "agreement alone say nothing about accuracy: networks with BatchNorm and random weights amplify any noise. The "
        "gap cancels most of it, because the same network amplifies the noise of 16 bits.",
        "",
        wide_gaps(rows),
        "",
    ]
    for family, group in by_family(rows):
        lines += [f"## {family}", "", f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
        lines += [f"| {' | '.join(cells(row))} |" for row in group] + [""]
    compared = {row.name: row.comparison for row in rows}
    address = PICTURE if drawn(rows) else ""
    return "\n".join([*lines, *kept_layers(rows), *table(compared, address), *geometric_means(compared)])


def not_run(rows: Sequence[Row]) -> str:
    """Name the models of the list that have no row."""
    missing = [f"`{each.name}`" for each in FAMILIES if each.name not in {row.name for row in rows}]
    return f" Not run yet: {', '.join(missing)}." if missing else ""


def other_quantizers(rows: Sequence[Row]) -> str:
    """Name the rows whose int8 is not of today's quantizer."""
    others = {row.name: row.conversions["int8"].quantizer for row in rows if has_other_quantizer(row)}
    if not others:
        return ""
    named = ", ".join(f"`{name}`" for name in others)
    return f" The int8 of these is of an earlier quantizer ({', '.join(sorted({*others.values()}))}): {named}."


def measurements(rows: Sequence[Row]) -> list[str]:
    """Say when, where and with which packages the rows were measured; name the rows that differ from most."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_circumstances(row), []).append(row)
    lines = []
    for rank, (text, group) in enumerate(sorted(groups.items(), key=lambda each: -len(each[1]))):
        dates = sorted({row.taken.date for row in group if row.taken is not None})
        span = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        named = f" · {', '.join(f'`{row.name}`' for row in group)}" if rank else ""
        lines += [f"{span} · {text}{named}", ""]
    return lines


def _circumstances(row: Row) -> str:
    assert row.taken is not None
    packages = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    return f"{row.taken.processor}, {row.taken.cpus} CPUs · Python {row.taken.python}, {packages}"


def cells(row: Row) -> list[str]:
    """Return what a line of the page shows."""
    full, half, quantized = (row.conversions[precision] for precision in PRECISIONS)
    size = "x".join(map(str, row.input_size)) if row.input_size[0] else ""
    counted = [f"{row.parameters / 1e6:.2f}", f"{row.macs / 1e9:.2f}"] if row.parameters else ["", ""]
    reasons = {each.failed: precision for precision, each in row.conversions.items() if each.failed}
    return [
        f"`{row.name}`",
        size,
        *counted,
        "" if full.failed else f"{full.source_sqnr_db:.0f}",
        *(fidelity(each) for each in (half, quantized)),
        "" if (behind := gap_db(row)) is None else f"{behind:.1f}",
        str(len(quantized.float_layers) or ""),
        *(faster(each) for each in (full, half, quantized)),
        *("" if each.failed else f"{each.megabytes:.1f}" for each in (full, quantized)),
        f"{quantized.cpu_seconds:.0f}" if quantized.cpu_seconds else "",
        "; ".join(f"{precision}: {reason}" for reason, precision in reasons.items()).replace("|", "\\|"),
    ]


def fidelity(found: Conversion) -> str:
    """Return SQNR and agreement, or that there are none."""
    return "failed" if found.failed else f"{found.sqnr_db:.0f} dB, {found.agreement:.0f} %"


def faster(found: Conversion) -> str:
    """Return the speed-up with its range; empty without times."""
    low, high = found.speedup_range
    return f"{found.speedup:.2f} ({low:.2f}-{high:.2f})" if found.p50_ms else ""


def gap_db(row: Row) -> float | None:
    """Return how far int8 is behind 16 bits: the difference of their SQNR against the FP32 graph."""
    half, quantized = row.conversions["fp16"], row.conversions["int8"]
    return None if half.failed or quantized.failed else half.sqnr_db - quantized.sqnr_db


def wide_gaps(rows: Sequence[Row]) -> str:
    """Name the rows whose gap is above the target."""
    wide = [f"`{row.name}` {gap:.1f}" for row in rows if (gap := gap_db(row)) is not None and gap > LARGEST_GAP_DB]
    limit = f"{LARGEST_GAP_DB:.0f} dB"
    return f"Gaps above {limit}: {', '.join(wide)}." if wide else f"No gap is above {limit}."


def kept_layers(rows: Sequence[Row]) -> list[str]:
    """Name the layers that int8 leaves in 16 bits, for each row that has some."""
    found = {row.name: row.conversions["int8"].float_layers for row in rows}
    lines = [f"- `{name}`: {', '.join(layers)}" for name, layers in found.items() if layers]
    return ["## Layers that int8 leaves in 16 bits", "", *lines, ""] if lines else []


def drawn(rows: Sequence[Row]) -> str:
    """Draw time against SQNR of ours and of the peers; empty where nothing was timed."""
    trained = frozenset(row.name for row in rows if row.trained)
    found = list(dots({row.name: row.comparison for row in rows}, trained))
    return picture_of(found) if found else ""
