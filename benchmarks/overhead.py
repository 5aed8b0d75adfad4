"""What vitedge adds around the engine, and what it costs to import.

`classify` on a frame that needs no resize takes turns with the same IR in a bare OpenVINO loop, compiled with the same
properties; the ratio of medians is taken within each round. Both get another frame at every call, as from a camera. The
bare loop does the least that an application must: it copies a frame that is cropped and in RGB already into the input,
infers, and copies the logits out. `import vitedge.runtime.load`, which `vitedge.load` needs, is timed in fresh
processes, in turns with `import numpy`, which is part of it.

    python benchmarks/overhead.py BUNDLE [--rounds 30] [--calls 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from common.timing import Call, median_ms
from numpy.typing import NDArray

from vitedge.bundle.bundle import OPENVINO_XML, Bundle
from vitedge.files import write_atomic
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.runtime.system.machine import machine_state, processor_name
from vitedge.version import VERSION

CLASSIFY_TARGET = 1.05
IMPORT_TARGET_SECONDS = 0.15
IMPORT_RUNS = 15
IMPORTED = RUNTIME, NUMPY = "vitedge.runtime.load", "numpy"
SETTLING_CALLS = 5
FRAMES = 4


@dataclass(frozen=True)
class Paired:
    """Medians of two calls that took turns, one pair a round.

    Attributes:
        ours: milliseconds.
        bare: milliseconds.
    """

    ours: tuple[float, ...]
    bare: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Return the ratio of each round."""
        return [mine / theirs for mine, theirs in zip(self.ours, self.bare, strict=True)]


def bare_loop(bundle: Bundle, threads: int | None) -> Call:
    """Compile the IR as the runtime does; return a call of it with nothing of vitedge around it."""
    import openvino

    from vitedge.runtime.engines.openvino import native_float

    core = openvino.Core()
    rest = "f32" if bundle.manifest.precision.asked == "fp32" else native_float(core)
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": rest}
    if threads is not None:
        properties |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    request = core.compile_model(bundle.path / OPENVINO_XML, "CPU", properties).create_infer_request()
    pixels, logits = request.get_input_tensor().data, request.get_output_tensor().data
    frames = cycle(bundle.golden().frames[:FRAMES])

    def call() -> NDArray[np.float32]:
        pixels[0] = next(frames)
        request.infer()
        return np.array(logits[0])

    return call


def paired(ours: Call, bare: Call, *, rounds: int, calls: int) -> Paired:
    """Measure both in turns, the first of a round changing from round to round; one round more warms up."""
    mine, theirs = [], []
    for number in range(rounds + 1):
        found = {}
        for name, call in sorted((("ours", ours), ("bare", bare)), reverse=bool(number % 2)):
            found[name] = median_ms(call, calls=calls, settling=SETTLING_CALLS)
        mine.append(found["ours"])
        theirs.append(found["bare"])
    return Paired(tuple(mine[1:]), tuple(theirs[1:]))


def unresized_frames(classifier: Classifier) -> NDArray[np.uint8]:
    """Make a few wide frames whose short side is the resize size already."""
    height, _ = classifier.preprocessing.resize_size
    return np.random.default_rng(0).integers(0, 256, (FRAMES, height, height * 16 // 9, 3), dtype=np.uint8)


def import_seconds(module: str) -> float:
    """Measure an import in a fresh process, by its own clock."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    keeps_compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=keeps_compiled)
    return float(done.stdout)


def import_times() -> dict[str, list[float]]:
    """Measure the seconds of each import, in turns; a first turn compiles the modules and fills the file cache."""
    turns = [{module: import_seconds(module) for module in IMPORTED} for _ in range(IMPORT_RUNS + 1)]
    return {module: [turn[module] for turn in turns[1:]] for module in IMPORTED}


def spread(values: list[float] | tuple[float, ...], digits: int = 3) -> str:
    """Format the median and the range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> int:
    """Measure, print, and write JSON where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    with load(bundle, threads=arguments.threads) as classifier:
        frames = unresized_frames(classifier)
        turns = cycle(frames)
        bare = bare_loop(bundle, arguments.threads)
        pair = paired(lambda: classifier.classify(next(turns)), bare, rounds=arguments.rounds, calls=arguments.calls)
        info = classifier.info
    imports = import_times()
    ratio, importing = statistics.median(pair.ratios), statistics.median(imports[RUNTIME])
    print(
        f"{bundle.manifest.model.name}, {info.effective_precision}, {processor_name()}, {machine_state().cpus} CPUs\n"
    )
    print("| what | median (range over rounds) | target |\n|---|---|---|")
    print(f"| classify, {frames.shape[2]}x{frames.shape[1]} frame, p50 ms | {spread(pair.ours)} | |")
    print(f"| bare OpenVINO loop, p50 ms | {spread(pair.bare)} | |")
    print(f"| classify / bare loop | {spread(pair.ratios)} | ≤ {CLASSIFY_TARGET} |")
    print(f"| import {RUNTIME}, s | {spread(imports[RUNTIME])} | ≤ {IMPORT_TARGET_SECONDS} |")
    print(f"| import {NUMPY} alone, s | {spread(imports[NUMPY])} | |")
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "engine": asdict(info),
            "machine": asdict(machine_state()),
            "classify_ms": pair.ours,
            "bare_ms": pair.bare,
            "import_s": imports,
        }
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0 if ratio <= CLASSIFY_TARGET and importing <= IMPORT_TARGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
