"""What one conversion costs: seconds, processor time and peak resident memory of `vitedge convert` in its own process.

python benchmarks/conversion.py SOURCE --calib DIR [--precision int8] [--random-weights] [--runs 3] [--target SECONDS]
    [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vitedge.bundle.bundle import Bundle
from vitedge.counts import counted
from vitedge.files import write_atomic
from vitedge.runtime.system.machine import machine_state, processor_name
from vitedge.version import VERSION

SECONDS_TARGET = 180.0
MEMORY_TARGET_GB = 4.0


@dataclass(frozen=True)
class Cost:
    """Of one conversion.

    Attributes:
        seconds: wall clock, from process start to exit.
        cpu_seconds: time of all processors, children included; work beside it changes it less than the wall clock.
        peak_gb: largest resident set, 10⁹ bytes.
        images: that ranges were taken from.
        bundle_mb: size of the result, 10⁶ bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_gb: float
    images: int
    bundle_mb: float


def convert_once(options: list[str]) -> Cost:
    """Convert into a folder that is thrown away, remembering nothing of earlier conversions.

    Raises:
        RuntimeError: the conversion failed; its output went to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.bundle"
        begun = time.monotonic()
        command = [sys.executable, "-m", "vitedge", "convert", *options, "-o", str(output)]
        environment = os.environ | {"VITEDGE_CACHE": str(Path(folder) / "cache")}
        process = subprocess.Popen(command, stdout=sys.stderr, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        if status != 0:
            raise RuntimeError(f"vitedge convert ended with status {status}")
        bundle = Bundle.open(output)
        calibration = bundle.manifest.calibration
        return Cost(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_gb=usage.ru_maxrss * 1024 / 1e9,
            images=calibration.images if calibration else 0,
            bundle_mb=bundle.size_bytes / 1e6,
        )


def main() -> int:
    """Convert a few times, print a table, and write JSON where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--random-weights", action="store_true", help="as of vitedge convert")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--target", type=float, default=SECONDS_TARGET, help="seconds that it may take")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = [arguments.source, "--target", "cpu", "--precision", arguments.precision, "--calib", str(arguments.calib)]
    options += ["--random-weights"] * arguments.random_weights
    costs = [convert_once(options) for _ in range(arguments.runs)]
    seconds = [cost.seconds for cost in costs]
    peak = max(cost.peak_gb for cost in costs)
    print(
        f"{Path(arguments.source).name}, {arguments.precision}, {processor_name()}, {machine_state().cpus} CPUs, "
        f"{counted(arguments.runs, 'run')}\n"
    )
    columns = ("images", "seconds, median (range)", "processor seconds, median", "peak memory, GB", "bundle, MB")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    print(
        f"| {costs[0].images} | {statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f}), "
        f"target ≤ {arguments.target:.0f} | {statistics.median(cost.cpu_seconds for cost in costs):.1f} | "
        f"{peak:.2f}, target ≤ {MEMORY_TARGET_GB:.0f} | {costs[0].bundle_mb:.1f} |"
    )
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "machine": asdict(machine_state()),
            "precision": arguments.precision,
            "runs": [asdict(cost) for cost in costs],
        }
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0 if statistics.median(seconds) <= arguments.target and peak <= MEMORY_TARGET_GB else 1


if __name__ == "__main__":
    sys.exit(main())
