"""``vitedge bench``: latency of a bundle on this machine, alone or against another one."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

from vitedge.cli import output
from vitedge.cli.flags import ENGINE_HELP, THREADS_HELP, call
from vitedge.cli.reports import add_json_flag, check_report_paths, is_standard_output, write_json
from vitedge.files import write_report
from vitedge.runtime.engines.open import ENGINES

DESCRIPTION = "Measure latency, from a camera frame to its labels, on this machine."
EPILOG = """\
Calls follow one another, after a warm-up until the latency is stable. Percentiles come from raw nanoseconds;
nothing is clipped. The cold start is timed in a process of its own.

examples:
  vitedge bench deit.bundle
  vitedge bench deit-int8.bundle --against deit-fp32.bundle --seconds 30
  vitedge bench deit.bundle --frame-size 1920x1080 --json latency.json --html latency.html
"""
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser("bench", help="measure latency", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="BUNDLE",
        help="measure this bundle too, in turns, and print the ratio of the latencies",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="how long the counted calls of each bundle take (default: %(default)g)",
    )
    parser.add_argument(
        "--frame-size",
        type=_frame_size,
        default=(720, 1280),
        metavar="WxH",
        help="size of the camera frames (default: 1280x720)",
    )
    parser.add_argument("--engine", choices=list(ENGINES), help=ENGINE_HELP)
    parser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)
    add_json_flag(parser, "the figures")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots of every call")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the reports, print the table."""
    check_report_paths({"--json": arguments.json, "--html": arguments.html})
    from vitedge.report.bench import to_html
    from vitedge.runtime.bench.measure import bench
    from vitedge.runtime.bench.text import to_json, to_text

    report = call(bench, arguments)
    if arguments.json:
        write_json(arguments.json, to_json(report))
    if arguments.html:
        write_report(arguments.html, to_html(report))
    if not is_standard_output(arguments.json):
        show = output.tell if arguments.json or arguments.html else output.write
        show(to_text(report))
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _frame_size(text: str) -> tuple[int, int]:
    """Parse ``WxH`` as (height, width)."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame size; expected WIDTHxHEIGHT, such as 1280x720")
    return (int(match[2]), int(match[1]))
