"""How long ``vitedge.load`` takes in this tree, over how long it takes in another one.

Each tree loads the bundle several times in a child process; the children take turns, in an order drawn anew each round.
The ratio of medians is taken within each round, where both met the same machine. Each tree has a cache of its own
that remembers the self-test, as on a device after its first start. Checking the bundle is timed, imports are not.

    git worktree add build/before 37b24d0
    python benchmarks/load_time.py BUNDLE --old build/before [--new TREE] [--engine NAME] [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from common.timing import Call, in_turns

from vitedge.files import write_atomic
from vitedge.runtime.system.machine import machine_state, processor_name

TARGET = 1.03
SETTLING_LOADS = 2
ROOMS = ("calib", "converters", "runtime")

CHILD = """
import json, sys, time
import vitedge, openvino
load = vitedge.load
path, engine, loads, settling = sys.argv[1], sys.argv[2] or None, int(sys.argv[3]), int(sys.argv[4])
spent = []
for _ in range(settling + loads):
    begun = time.perf_counter_ns()
    classifier = load(path, engine=engine)
    spent.append((time.perf_counter_ns() - begun) / 1e6)
    classifier.close()
print(json.dumps({"tree": vitedge.__file__, "milliseconds": spent[settling:]}))
"""


def package_of(tree: Path, scratch: Path) -> Path:
    """Return a folder to import a tree's ``vitedge`` from: itself if pip installed into it, else one with links.

    Raises:
        SystemExit: there is no vitedge in it.
    """
    if not (tree / "vitedge").is_dir():
        raise SystemExit(f"error: {tree} holds no vitedge; expected a checkout, or a folder that pip installed into")
    if (tree / "vitedge" / "runtime").is_dir():
        return tree
    package = scratch / "vitedge"
    package.mkdir(parents=True)
    for each in (*(tree / "vitedge").iterdir(), *(tree / room for room in ROOMS)):
        (package / each.name).symlink_to(each.resolve())
    return scratch


def load_ms(package: Path, cache: Path, bundle: Path, engine: str, loads: int) -> float:
    """Measure the median milliseconds of loading a bundle with the vitedge of a folder.

    Raises:
        SystemExit: the child failed, or imported another vitedge.
    """
    environment = {**os.environ, "PYTHONPATH": str(package), "VITEDGE_CACHE": str(cache)}
    command = [sys.executable, "-c", CHILD, str(bundle), engine, str(loads), str(SETTLING_LOADS)]
    child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=cache.parent)
    if child.returncode:
        raise SystemExit(f"error: loading {bundle} with {package} failed")
    answer = json.loads(child.stdout.splitlines()[-1])
    if Path(answer["tree"]).parent.parent != package:
        raise SystemExit(f"error: {answer['tree']} was imported, not the vitedge of {package}")
    return statistics.median(answer["milliseconds"])


def described(times: Mapping[str, list[float]]) -> str:
    """Describe the ratio and its spread over the rounds, and both medians."""
    ratios = [new / old for new, old in zip(times["new"], times["old"], strict=True)]
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    medians = ", ".join(f"{name} {statistics.median(each):.1f} ms" for name, each in times.items())
    return f"new over old {middle:.3f} ({low:.3f} to {high:.3f} over {len(ratios)} rounds): {medians}"


def main() -> int:
    """Measure and print; fails above the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--old", type=Path, required=True, help="a checkout, or a folder that pip installed into")
    parser.add_argument("--new", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--engine", default="")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--loads", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitedge-load-") as folder:
        scratch, calls = Path(folder).resolve(), dict[str, Call]()
        for name, tree in (("old", arguments.old), ("new", arguments.new)):
            cache, package = scratch / f"{name}-cache", package_of(tree.resolve(), scratch / name)
            cache.mkdir(mode=0o700)
            bundle, loads = arguments.bundle.resolve(), arguments.loads
            calls[name] = partial(load_ms, package, cache, bundle, arguments.engine, loads)
        times = in_turns(calls, lambda call: cast("float", call()), rounds=arguments.rounds)
    print(f"{arguments.bundle} on {processor_name()}: {described(times)}; target {TARGET}")
    if arguments.json is not None:
        report = {"bundle": str(arguments.bundle), "machine": asdict(machine_state()), "milliseconds": times}
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    ratio = statistics.median(new / old for new, old in zip(times["new"], times["old"], strict=True))
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
