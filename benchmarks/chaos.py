"""Runs in which something goes wrong at every boundary of a stream.

    python benchmarks/chaos.py --page docs/runtime.md

A source, an engine, a callback or a consumer raises, sleeps or hangs; a program that feeds a source is killed; other
threads, signal handlers, forks and the end of the program come in between. Each run is a process of its own. It has to
end with exit code 0 within its bound, with every frame counted, every source closed and no thread left. The same seed
gives the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.pages import write_between

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from endurance.campaign import SECONDS, ChaosResult, campaign  # noqa: E402

RUNS = 2000
EVERY = 100


def main() -> int:
    """Run, print, and write the page if there is one; 1 if a run was not clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="bound of a run")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    begun, results = time.monotonic(), []
    for result in campaign(arguments.first, arguments.runs, seconds=arguments.seconds):
        results.append(result)
        if result.problems:
            print(result, flush=True)
        if len(results) % EVERY == 0:
            print(f"{len(results)} runs, {sum(bool(each.problems) for each in results)} not clean", flush=True)
    text = report(results, (time.monotonic() - begun) / 60)
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "chaos", text)
    return int(any(each.problems for each in results) or len(results) < arguments.runs)


def report(results: Sequence[ChaosResult], minutes: float) -> str:
    """Say in a sentence how the runs ended."""
    seconds = sorted(each.seconds for each in results)
    clean = sum(not each.problems for each in results)
    return (
        f"{clean:,} of {len(results):,} runs (seeds {results[0].seed} to {results[-1].seed}) ended clean, in "
        f"{minutes:.0f} minutes. Half of the runs took less than {statistics.median(seconds):.1f} s, the longest "
        f"{seconds[-1]:.1f} s."
    )


if __name__ == "__main__":
    sys.exit(main())
