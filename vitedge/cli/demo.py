"""``vitedge demo``: a demonstration without download, account or camera."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.cli import output
from vitedge.counts import counted
from vitedge.errors import UsageError
from vitedge.extras import require
from vitedge.safety.escape import shell, terminal_lines

if TYPE_CHECKING:
    from vitedge.demo.demo import BundleResult, Result
    from vitedge.demo.larger import LargerResult

DESCRIPTION = """\
Convert a small Vision Transformer that comes with vitedge to fp32, fp16 and int8, and stream a clip of handwritten
digits, rendered as a camera would see them, through the bundles. Compare the latency of a larger one, with random
weights. Takes two or three minutes on two cores; the result is a page, index.html.
"""
EPILOG = """\
examples:
  vitedge demo
  vitedge demo -o elsewhere
"""
DEFAULT_FOLDER = "vitedge-demo"
# What the demo's modules import themselves; the conversion names its own.
PACKAGES = ("av", "cv2", "PIL", "sklearn")


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "demo", help="see it work: no download, no camera", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        default=Path(DEFAULT_FOLDER),
        help=f"folder to write (default: ./{DEFAULT_FOLDER})",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the folder of an earlier demo; it must hold nothing else"
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, and print its result."""
    folder: Path = arguments.output
    if os.path.lexists(folder) and not arguments.overwrite:
        raise UsageError(
            f"{folder} exists already",
            expected="a folder that the demo can make",
            fix=f"replace it with --overwrite, or: vitedge demo -o {shell(f'{folder}-2')}",
        )
    for package in PACKAGES:
        require(package, extra="demo", purpose="vitedge demo")
    from vitedge.demo.demo import run_demo

    output.tell(as_text(run_demo(folder, arguments.progress, overwrite=arguments.overwrite), folder))
    return 0


def as_text(result: Result, folder: Path) -> str:
    """Render the result, and the next steps."""
    reference, chosen = result.rows[0], result.rows[-1]
    stated = [
        f"{counted(result.frames, 'frame')} of {result.digits} digits that training never saw, on {result.device}",
        f"  recognized  {chosen.clip_top1:.1f} % of the frames in int8, {reference.clip_top1:.1f} % in fp32",
        f"  streamed    {chosen.clip_fps:.0f} frames per second in int8, decoding included",
        f"  latency     p50 {chosen.latency.p50_ms:.2f} ms, p99 {chosen.latency.p99_ms:.2f} ms from frame to answer",
    ]
    lines = ["", *stated, "", *_table(result.rows), "", *_larger(result.larger), "", *_next_steps(folder)]
    return terminal_lines(lines)


def _table(rows: tuple[BundleResult, ...]) -> list[str]:
    images = rows[0].accuracy.images
    calls = min(row.latency.calls for row in rows)
    return [
        f"{'':<6}{'runs as':<13}{'top-1':>8}{'as fp32':>10}{'p50 ms':>9}{'p99 ms':>9}{'network':>10}{'fps':>7}     MB",
        *(_table_row(row) for row in rows),
        f"top-1 and agreement with fp32: percent of {images} held-out photos. Latency: at least {calls} calls each on",
        "640x480 frames of the clip, one after the other, the bundles in turns; network: its share of p50, the rest",
        "preprocessing",
    ]


def _table_row(row: BundleResult) -> str:
    latency, accuracy = row.latency, row.accuracy
    return (
        f"{row.precision:<6}{row.runs_as:<13}{accuracy.top1:>8.2f}{accuracy.agreement:>10.2f}"
        f"{latency.p50_ms:>9.2f}{latency.p99_ms:>9.2f}{latency.infer_p50_ms:>10.2f}"
        f"{latency.fps:>7.0f}{row.size_bytes / 1e6:>7.2f}"
    )


def _larger(larger: LargerResult) -> list[str]:
    return [
        f"{larger.model} with random weights: fp32 takes {larger.speedup:.2f} times as long as int8",
        f"{'':<6}{'runs as':<13}{'p50 ms':>9}{'p99 ms':>9}{'network':>10}{'fps':>7}     MB",
        *(
            f"{row.precision:<6}{row.runs_as:<13}{row.latency.p50_ms:>9.2f}{row.latency.p99_ms:>9.2f}"
            f"{row.latency.infer_p50_ms:>10.2f}{row.latency.fps:>7.0f}{row.size_bytes / 1e6:>7.2f}"
            for row in larger.rows
        ),
    ]


def _next_steps(folder: Path) -> list[str]:
    from vitedge.demo.demo import ANNOTATED, PAGE, next_steps

    steps = [line for what, command in next_steps(folder) for line in (f"  {what}", f"    {command}")]
    return ["next", f"  open {folder / PAGE} in a browser, or watch {folder / ANNOTATED}", *steps]
