"""Runs every benchmark on this machine and writes `docs/benchmarks.md` from what they print.

    python benchmarks/report.py [--data ../shared/data] [--work DIR] [--output docs/benchmarks.md] [--only NAME ...]

Leave the machine alone while it runs. Each section is the output of one script, with the command that made it; with
`--only`, the other sections stay as they are.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vitedge.files import write_atomic
from vitedge.runtime.system.machine import machine_state, processor_name

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
PACKAGES = ("vitedge", "numpy", "openvino", "onnxruntime", "torch", "timm", "nncf", "onnx")
DEIT, CLIP = "deit-int8.bundle", "car-detection.mp4"


@dataclass(frozen=True)
class Section:
    """A benchmark and its place on the page.

    Attributes:
        name: script without ``.py``; also what ``--only`` takes.
        title: heading.
        arguments: of the script.
    """

    name: str
    title: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """Return the command that runs it, from the root of the repository."""
        return ["python", f"benchmarks/{self.name}.py", *self.arguments]


def sections(data: Path, work: Path) -> tuple[Section, ...]:
    """List every benchmark, in the order of the page."""
    deit, calib = str(data / "models/deit_tiny_imagenet"), str(data / "flowers/calib")
    return (
        Section("int8_latency", "Latency of int8", ("--data", str(data))),
        Section("overhead", "What vitedge adds to the engine", (str(work / DEIT),)),
        Section("streaming", "Streaming under the policy every", (str(work / DEIT), str(data / "video" / CLIP))),
        Section("cameras", "Several cameras", (str(work / DEIT), str(data / "video" / CLIP))),
        Section("preprocess", "Preprocessing", ()),
        Section("conversion", "What a conversion costs", (deit, "--calib", calib)),
    )


def convert_deit(data: Path, work: Path) -> None:
    """Convert the bundle that the runtime's benchmarks use, unless it is there."""
    if (work / DEIT).exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    source, calib = data / "models/deit_tiny_imagenet", data / "flowers/calib"
    options = ["--target", "cpu", "--precision", "int8", "--calib", str(calib), "-o", str(work / DEIT)]
    subprocess.run([sys.executable, "-m", "vitedge", "convert", str(source), *options], check=True)


def measured(section: Section) -> str:
    """Run a section's script, and format its result as Markdown.

    Raises:
        RuntimeError: the script failed; missing a target is no failure, it shows in its table.
    """
    sys.stderr.write(f"{section.name}\n")
    command = [sys.executable, *section.command[1:]]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if result.returncode not in (0, 1) or not result.stdout.strip():
        raise RuntimeError(f"{shlex.join(section.command)} ended with {result.returncode}")
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return f"## {section.title}\n\n    {shlex.join(section.command)}\n\nTaken {today}. {result.stdout.strip()}\n"


def header() -> str:
    """Describe the machine and the versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    state = machine_state()
    return (
        "# Benchmarks\n\n"
        "Written by `benchmarks/report.py`; no number here was typed by hand. Absolute times are of this machine; the "
        "ratios, taken side by side in one run, are what to compare. "
        "How accurate int8 is: [quantization.md](quantization.md).\n\n"
        f"{processor_name()}, {state.cpus} CPUs, frequency governor "
        f"{state.governors} · {platform.system()} · Python {platform.python_version()}, {versions}\n"
    )


def kept_sections(page: Path) -> dict[str, str]:
    """Read the sections of an earlier page, by title."""
    if not page.is_file():
        return {}
    parts = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.splitlines()[0][3:]: part.rstrip() + "\n" for part in parts}


def main() -> int:
    """Measure and write the page after each section, so that an interrupt loses one section at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    convert_deit(arguments.data, arguments.work)
    listed = sections(arguments.data, arguments.work)
    texts = kept_sections(arguments.output)
    for section in listed:
        if arguments.only is None or section.name in arguments.only:
            texts[section.title] = measured(section)
            ordered = [texts[each.title] for each in listed if each.title in texts]
            write_atomic(arguments.output, "\n".join([header(), *ordered]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
