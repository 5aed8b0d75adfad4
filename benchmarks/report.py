"""Run the benchmarks of the runtime and of conversion, and write what they print into `docs/benchmarks.md`.

    python benchmarks/report.py [--data ../shared/data] [--work DIR] [--output docs/benchmarks.md] [--only NAME ...]

Leave the machine alone while it runs. Each section is the output of one script, with the command that made it, between
the page's markers of that name. The rest of the page is written by hand and stays; so do, with `--only`, the other
sections.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from common.pages import check_places, write_between
from common.taken import taken_now

from vitedge.runtime.system.machine import machine_state

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vitedge", "numpy", "openvino", "onnxruntime", "torch", "timm", "nncf", "onnx")
MACHINE = "machine"
"""Marker around the machine and the versions."""
BUNDLE = "{bundle}"
SECTIONS: dict[str, tuple[str, ...]] = {
    "int8_latency": ("--data", "{data}"),
    "overhead": (BUNDLE,),
    "streaming": (BUNDLE, "{data}/video/car-detection.mp4"),
    "cameras": (BUNDLE, "{data}/video/car-detection.mp4"),
    "preprocess": (),
    "conversion": ("{data}/models/deit_tiny_imagenet", "--calib", "{data}/flowers/calib", "--target", "25"),
}
"""Arguments of each script, by its name without ``.py``."""


def command_of(name: str, data: Path, bundle: Path) -> list[str]:
    """Return the command of a section, from the root of the repository."""
    arguments = (each.format(data=data, bundle=bundle) for each in SECTIONS[name])
    return ["python", f"benchmarks/{name}.py", *arguments]


def convert_deit(data: Path, bundle: Path) -> None:
    """Convert the bundle that the runtime's benchmarks use, unless it is there."""
    if bundle.exists():
        return
    bundle.parent.mkdir(parents=True, exist_ok=True)
    source, calib = data / "models/deit_tiny_imagenet", data / "flowers/calib"
    options = ["--target", "cpu", "--precision", "int8", "--calib", str(calib), "-o", str(bundle)]
    subprocess.run([sys.executable, "-m", "vitedge", "convert", str(source), *options], check=True)


def measured(command: list[str]) -> str:
    """Run a script, and return its section as Markdown.

    Raises:
        RuntimeError: the script failed. It shows missed targets in its table, and exits with 1 then.
    """
    sys.stderr.write(f"{shlex.join(command)}\n")
    result = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if result.returncode not in (0, 1) or not result.stdout.strip():
        raise RuntimeError(f"{shlex.join(command)} ended with {result.returncode}")
    return f"    {shlex.join(command)}\n\nTaken {taken_now().date}. {result.stdout.strip()}"


def machine() -> str:
    """Describe the machine, and the versions of the packages."""
    taken, versions = taken_now(), ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{taken.processor}, {taken.cpus} CPUs, frequency governor {machine_state().governors} · {platform.system()} · "
        f"Python {taken.python}, {versions}"
    )


def main() -> int:
    """Measure, and write each section into the page at once, so that an interrupt loses one section at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"), help="page with the markers")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS], metavar="NAME")
    arguments = parser.parse_args()
    check_places(arguments.output, [MACHINE, *arguments.only])
    bundle = arguments.work / "deit-int8.bundle"
    if any(BUNDLE in SECTIONS[name] for name in arguments.only):
        convert_deit(arguments.data, bundle)
    for name in SECTIONS:
        if name in arguments.only:
            write_between(arguments.output, name, measured(command_of(name, arguments.data, bundle)))
            write_between(arguments.output, MACHINE, machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
