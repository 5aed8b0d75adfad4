"""``vitedge targets``: what vitedge compiles for."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vitedge.targets import TARGETS

EPILOG = """\
examples:
  vitedge targets
"""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "targets",
        help="what vitedge compiles for",
        description="List the targets, the precisions that each takes, and what to know before choosing one.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Print a line per target."""
    for target in TARGETS:
        sys.stdout.write(f"{target.name:<18} {', '.join(target.precisions):<18} {target.description}\n")
        sys.stdout.write(f"{'':<18} {target.notes}\n")
    return 0
