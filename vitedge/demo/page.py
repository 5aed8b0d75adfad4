"""The result of the demo as one page: the video, accuracy, latency, and how to go on."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitedge.demo.clip import read_frames, write_video
from vitedge.demo.measure import ClassifyLatency
from vitedge.report.page import glossary, page, table, term, verdict
from vitedge.safety.escape import html

if TYPE_CHECKING:
    from vitedge.demo.demo import Result

VIDEO_HEIGHT = 320
"""Rows of the video in the page, which keep it at a few MB."""
TITLE = "A Vision Transformer in fp32, fp16 and int8 on this machine"

STYLE = """
video { width: 100%; height: auto; display: block; border-radius: 6px; background: #000; }
.bars { display: grid; grid-template-columns: auto 1fr; gap: .35em .8em; align-items: center; margin: .4em 0 1.2em; }
.bars span { white-space: nowrap; font-variant-numeric: tabular-nums; }
.bars div { display: flex; align-items: center; gap: .6em; }
.bars i { display: block; height: 1.1em; border-radius: 2px; background: var(--series0); flex: none; }
.bars .best i { background: var(--series1); }
td:first-child { min-width: 0 !important; white-space: nowrap; overflow-wrap: normal; }
@media (max-width: 600px) { th, td { padding: .25em .2em; } th:last-child, td:last-child { padding-right: 0; } }
code { font-size: 13px; } li { margin: .4em 0; } li code { display: block; }
code span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
"""


def to_html(result: Result, video: bytes, steps: Sequence[tuple[str, str]]) -> str:
    """Render the page.

    Args:
        result: what was measured.
        video: the annotated clip as MP4.
        steps: what to do next, and the command that does it.
    """
    sections = [
        verdict(_verdict(result)),
        _video(video, result),
        "<h2>Digits: accuracy and latency</h2>",
        _accuracy(result),
        _bars([(row.precision, row.latency) for row in result.rows]),
        f"<h2>{html(result.larger.model)}: a larger network</h2><p>With {term('random weights')}, on the same frames. "
        "The digits' network is so small that preprocessing takes most of the time. In int8, inference of this one "
        f"takes {result.larger.int8_over_fp16:.2f} times as long as in fp16; that depends on the processor.</p>",
        _bars([(row.precision, row.latency) for row in result.larger.rows]),
        _larger(result),
        "<h2>Go on</h2>",
        f"<ul>{''.join(f'<li>{html(what)}{_command(command)}</li>' for what, command in steps)}</ul>",
        glossary("top-1", "agreement", "p50", "p99", "random weights"),
    ]
    return page(TITLE, sections, style=STYLE)


def small_video(annotated: Path, scratch: Path) -> bytes:
    """Make a smaller copy of the annotated video, for the page.

    Args:
        annotated: the video.
        scratch: path of a new ``.mp4`` file; the caller removes it.

    Raises:
        VitedgeError: a video cannot be read or written.
    """
    write_video(scratch, _shrunk(annotated))
    return scratch.read_bytes()


def _shrunk(annotated: Path) -> Iterator[NDArray[np.uint8]]:
    for frame in read_frames(annotated):
        height, width = frame.shape[:2]
        size = (2 * round(width * VIDEO_HEIGHT / height / 2), VIDEO_HEIGHT)
        yield np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def _verdict(result: Result) -> str:
    reference, chosen, larger = result.rows[0], result.rows[-1], result.larger
    return (
        f"int8 recognizes <strong>{chosen.accuracy.top1:.1f} %</strong> of {chosen.accuracy.images} photos of digits "
        f"that training never saw, fp32 {reference.accuracy.top1:.1f} %. On {html(larger.model)} int8 takes "
        f"<strong>{larger.rows[-1].latency.p50_ms:.1f} ms</strong> from frame to answer, fp32 <strong>"
        f"{larger.speedup:.1f} times</strong> as long."
    )


def _video(video: bytes, result: Result) -> str:
    data = base64.b64encode(video).decode("ascii")
    chosen = result.rows[-1]
    return (
        f'<video controls="" autoplay="" muted="" loop="" playsinline="" src="data:video/mp4;base64,{data}"></video>'
        f"<p>{result.frames} frames of {result.digits} handwritten digits before a synthetic camera, classified in "
        f"int8: {chosen.clip_top1:.1f} % of the frames right, {chosen.clip_fps:.0f} frames per second with decoding. "
        'Larger, beside this page: <a href="annotated.mp4">annotated.mp4</a>.</p>'
    )


def _command(text: str) -> str:
    """Render a command that breaks between its words, and not at their hyphens."""
    return f"<code>{' '.join(f'<span>{html(word)}</span>' for word in text.split(' '))}</code>"


def _accuracy(result: Result) -> str:
    headings = (
        "",
        "runs as",
        f"{term('top-1')}, %",
        f"{term('agreement', 'as fp32')}, %",
        f"{term('p50')}, ms",
        f"{term('p99')}, ms",
        "network, ms",
        "MB",
    )
    rows = (
        (
            row.precision,
            html(row.runs_as),
            f"{row.accuracy.top1:.1f}",
            f"{row.accuracy.agreement:.1f}",
            f"{row.latency.p50_ms:.2f}",
            f"{row.latency.p99_ms:.2f}",
            f"{row.latency.infer_p50_ms:.2f}",
            f"{row.size_bytes / 1e6:.1f}",
        )
        for row in result.rows
    )
    return table(headings, rows)


def _larger(result: Result) -> str:
    headings = ("", "runs as", f"{term('p50')}, ms", f"{term('p99')}, ms", "network, ms", "MB")
    rows = (
        (
            row.precision,
            html(row.runs_as),
            f"{row.latency.p50_ms:.2f}",
            f"{row.latency.p99_ms:.2f}",
            f"{row.latency.infer_p50_ms:.2f}",
            f"{row.size_bytes / 1e6:.1f}",
        )
        for row in result.larger.rows
    )
    return table(headings, rows)


def _bars(rows: Sequence[tuple[str, ClassifyLatency]]) -> str:
    """Draw the median latency of each precision as a bar; the shortest one stands out."""
    times = [latency.p50_ms for _, latency in rows]
    bars = []
    for name, latency in rows:
        best = ' class="best"' if latency.p50_ms == min(times) else ""
        width = 70 * latency.p50_ms / max(times)
        value = f"{latency.p50_ms:.2f} ms"
        bars.append(f'<span>{name}</span><div{best}><i style="width:{width:.1f}%"></i><span>{value}</span></div>')
    return f'<div class="bars">{"".join(bars)}</div>'
