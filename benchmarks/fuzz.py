"""Mutated files of every format that vitedge reads: ``python benchmarks/fuzz.py --page docs/security.md``.

Each case is one file. It has to end in an error that vitedge explains or in an answer that is right, within 10 seconds
and 1 GB over what the process took before, without running code and without a connection. Whatever does not is kept
in ``build/fuzz``, and the exit code is 1. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from common.pages import write_between

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fuzz.campaign import GOOD, MEGABYTES, SECONDS, Tally, campaign  # noqa: E402

CASES = 20_000


def main() -> int:
    """Run, print, and write the page if there is one; 1 if anything was found."""
    arguments = _arguments()
    begun = time.monotonic()
    tallies = {}
    for name, tally in campaign(arguments.cases, arguments.seed, ROOT / "build" / "fuzz", workers=arguments.workers):
        tallies[name] = tally
        print(f"{name}: {dict(tally.kinds)}, at most {tally.megabytes} MB", flush=True)
        for finding in tally.findings:
            print(f"  {finding}", flush=True)
    text = report(tallies, arguments.seed, (time.monotonic() - begun) / 60)
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "fuzzing", text)
    return 1 if any(tally.findings for tally in tallies.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES, help=f"of all formats together (default: {CASES})")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="formats at a time (default: 2)")
    parser.add_argument("--page", type=Path, help="page with the markers <!-- fuzzing --> to write the table into")
    return parser.parse_args()


def report(tallies: Mapping[str, Tally], seed: int, minutes: float) -> str:
    """Format the table, and a sentence before it."""
    cases = sum(tally.cases for tally in tallies.values())
    found = sum(len(tally.findings) for tally in tallies.values())
    rows = [
        f"| {name} | {tally.cases} | {tally.kinds['refused']} | {tally.kinds['answered']} | {_bad(tally)} | "
        f"{tally.megabytes} |"
        for name, tally in tallies.items()
    ]
    return "\n".join(
        [
            f"{cases:,} cases with seed {seed} on Python {platform.python_version()} and {platform.machine()}, "
            f"{minutes:.0f} minutes: {found} ended in anything but a `VitedgeError` or a right answer within "
            f"{SECONDS:g} s and {MEGABYTES} MB over the baseline.",
            "",
            "| format | cases | refused | answered | else | most memory, MB |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _bad(tally: Tally) -> str:
    found = {kind: count for kind, count in tally.kinds.items() if kind not in GOOD}
    return ", ".join(f"{count} {kind}" for kind, count in found.items()) or "0"


if __name__ == "__main__":
    sys.exit(main())
