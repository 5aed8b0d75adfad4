"""What `--precision auto` tries and chooses, as a table.

python benchmarks/auto.py SOURCE --calib DIR --max-drop LOSS [--eval DIR] [--max-p99 MS]

All options are those of `vitedge convert`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.precision_records import AutoRecord, CandidateRecord


def convert(options: list[str]) -> Manifest:
    """Convert in a process of its own; the manifest.

    Raises:
        RuntimeError: the conversion failed; its output went to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "chosen.bundle"
        command = [sys.executable, "-m", "vitedge", "convert", *options, "--target", "cpu", "--precision", "auto"]
        status = subprocess.run([*command, "-o", str(output)], stdout=sys.stderr).returncode
        if status != 0:
            raise RuntimeError(f"vitedge convert ended with status {status}")
        return Bundle.open(output).manifest


def table(model: str, record: AutoRecord) -> str:
    """Format a Markdown table, the fastest candidate first."""
    head = f"| {model} | p50 ms | p99 ms | loss, {record.contract.unit} |"
    rows = [_row(each, record) for each in record.candidates]
    return "\n".join([head, "|---|---|---|---|", *rows, "", f"Chosen: {record.summary}."])


def _row(candidate: CandidateRecord, record: AutoRecord) -> str:
    name = f"**{candidate.name}**" if candidate.name == record.chosen else candidate.name
    loss = "not measured" if candidate.loss is None else f"{candidate.loss:.2f}"
    return f"| {name} | {candidate.p50_ms:.2f} | {candidate.p99_ms:.2f} | {loss} |"


def main() -> int:
    """Convert as the command line says, and print the table."""
    manifest = convert(sys.argv[1:])
    assert manifest.auto is not None
    sys.stdout.write(f"{table(manifest.model.name, manifest.auto)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
