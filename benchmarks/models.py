"""Converts every model of `vitedge models` in every precision, with random weights: that it works, and what it costs.

python benchmarks/models.py --calib DIR [--model NAME ...] [--precision NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vitedge.bundle import Bundle
from vitedge.cli.models import MODELS
from vitedge.files import write_whole
from vitedge.runtime.machine import machine_state, processor_name
from vitedge.targets import target_named
from vitedge.version import VERSION


@dataclass(frozen=True)
class Row:
    """One conversion.

    Attributes:
        model: timm's name.
        precision: asked for.
        seconds: wall clock, from process start to exit.
        peak_gb: largest resident set, 10⁹ bytes.
        bundle_mb: size of the result, 10⁶ bytes.
        effective: what the engine computes its matrix products in.
        graph_sqnr_db: the FP32 graph against PyTorch.
        engine_sqnr_db: the compiled engine against the FP32 graph.
    """

    model: str
    precision: str
    seconds: float
    peak_gb: float
    bundle_mb: float
    effective: str
    graph_sqnr_db: float
    engine_sqnr_db: float

    @classmethod
    def measured(cls, model: str, precision: str, calib: Path) -> Row:
        """Convert into a folder that is thrown away.

        Raises:
            RuntimeError: the conversion failed; its output went to standard error.
        """
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "measured.bundle"
            options = ["--random-weights", "--target", "cpu", "--precision", precision, "--calib", str(calib)]
            begun = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "vitedge", "convert", model, *options, "-o", str(output)],
                stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - begun
            if status != 0:
                raise RuntimeError(f"{model} in {precision} ended with status {status}")
            return cls._of(Bundle.open(output), seconds, usage.ru_maxrss * 1024 / 1e9)

    @classmethod
    def _of(cls, bundle: Bundle, seconds: float, peak_gb: float) -> Row:
        manifest = bundle.manifest
        verified = manifest.verification
        assert verified.fp32_against_source is not None
        return cls(
            model=manifest.model.name,
            precision=manifest.precision.asked,
            seconds=seconds,
            peak_gb=peak_gb,
            bundle_mb=bundle.size_bytes / 1e6,
            effective=manifest.precision.effective,
            graph_sqnr_db=verified.fp32_against_source.sqnr_db,
            engine_sqnr_db=verified.precision_against_fp32.sqnr_db,
        )


HEADER = """\
| model | precision | ran in | fp32 graph, dB | engine, dB | seconds | peak memory, GB | bundle, MB |
|---|---|---|---|---|---|---|---|"""


def main() -> int:
    """Convert one after the other, print a row each, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=[model.name for model in MODELS])
    parser.add_argument("--precision", nargs="+", default=list(target_named("cpu").precisions))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{processor_name()}, {machine_state().cpus} CPUs\n\n{HEADER}")
    rows = []
    for model in arguments.model:
        for precision in arguments.precision:
            row = Row.measured(model, precision, arguments.calib)
            rows.append(row)
            print(
                f"| {row.model} | {row.precision} | {row.effective} | {row.graph_sqnr_db:.1f} | "
                f"{row.engine_sqnr_db:.1f} | {row.seconds:.0f} | {row.peak_gb:.2f} | {row.bundle_mb:.1f} |",
                flush=True,
            )
    if arguments.json is not None:
        report = {"version": 1, "vitedge": VERSION, "machine": asdict(machine_state()), "rows": [*map(asdict, rows)]}
        write_whole(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
