"""How much of the slowest stage's speed a stream under the policy `every` keeps.

Each round times, one after the other over the same clip: decoding alone, preprocessing alone, inference alone, the
three in one thread, and the pipeline. The ratio is taken within each round, so that what slows the machine for a
minute slows both of its sides.

    python benchmarks/streaming.py BUNDLE CLIP [--rounds 9] [--frames 300] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from vitedge.files import write_whole
from vitedge.runtime.classifier import Classifier, load
from vitedge.runtime.frames import Frame
from vitedge.runtime.machine import machine_state, processor_name
from vitedge.runtime.sources import open_source
from vitedge.version import VERSION

TARGET = 0.95
KEPT_FRAMES = 32
SERIAL, PIPELINE = "serial", "pipeline"

Case = Callable[[], Iterable[object]]


@dataclass(frozen=True)
class Rates:
    """Frames per second of one case in each round.

    Attributes:
        name: the case.
        rounds: one number a round, in order.
    """

    name: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.rounds)

    def row(self) -> str:
        """A line of the table."""
        low, high = min(self.rounds), max(self.rounds)
        return f"| {self.name} | {self.median:.1f} | {1000 / self.median:.2f} | {low:.1f}-{high:.1f} |"


def frames_of(clip: Path, count: int) -> Iterator[Frame]:
    """``count`` frames of the clip, from its start again where it is shorter."""
    delivered = 0
    while delivered < count:
        with open_source(clip) as source:
            for frame in islice(source, count - delivered):
                delivered += 1
                yield frame


def cases(classifier: Classifier, clip: Path, count: int) -> dict[str, Case]:
    """What is timed, by name: each gives ``count`` items."""
    kept = [frame.image for frame in frames_of(clip, KEPT_FRAMES)]
    prepared = [classifier.prepare(image) for image in kept]
    return {
        "decode": lambda: frames_of(clip, count),
        "preprocess": lambda: map(classifier.prepare, islice(cycle(kept), count)),
        "infer": lambda: map(classifier.infer, islice(cycle(prepared), count)),
        SERIAL: lambda: (classifier.infer(classifier.prepare(frame.image)) for frame in frames_of(clip, count)),
        PIPELINE: lambda: classifier.stream(frames_of(clip, count), policy="every"),
    }


def rate(items: Iterable[object]) -> float:
    """Items per second from the first to the last: N of them are N−1 intervals."""
    ticks = [time.perf_counter_ns() for _ in items]
    return (len(ticks) - 1) * 1e9 / (ticks[-1] - ticks[0])


def measure(timed: dict[str, Case], rounds: int) -> list[Rates]:
    """Rates of every case, interleaved over the rounds; a first round warms up and is not counted."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, case in timed.items():
            found[name].append(rate(case()))
        sys.stderr.write(f"round {number} of {rounds}\n")
    return [Rates(name, tuple(each[1:])) for name, each in found.items()]


def kept_shares(rates: list[Rates]) -> list[float]:
    """Of each round, the pipeline's rate over that of its slowest stage alone."""
    by_name = {each.name: each.rounds for each in rates}
    pipeline = by_name.pop(PIPELINE)
    del by_name[SERIAL]
    return [rate / min(stages) for rate, *stages in zip(pipeline, *by_name.values(), strict=True)]


def main() -> int:
    """Measure, print a table, and write JSON where asked; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--threads", type=int, help="of the engine; default: what it chooses")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with load(arguments.bundle, threads=arguments.threads) as classifier:
        rates = measure(cases(classifier, arguments.clip, arguments.frames), arguments.rounds)
        info = classifier.info
    shares = kept_shares(rates)
    share = statistics.median(shares)
    state = machine_state()
    print(
        f"{info.name} {info.version}, {info.effective_precision}, {processor_name()}, {state.cpus} CPUs, "
        f"load {state.load_average}; {arguments.clip.name}, {arguments.frames} frames, {arguments.rounds} rounds\n"
    )
    print("| case | frames/s (median) | ms/frame | range |\n|---|---|---|---|")
    print("\n".join(each.row() for each in rates))
    print(f"\npipeline / slowest stage alone: {share:.3f} ({min(shares):.3f}-{max(shares):.3f}), target {TARGET}")
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "engine": asdict(info),
            "machine": asdict(state),
            "clip": arguments.clip.name,
            "frames": arguments.frames,
            "threads": arguments.threads,
            "fps": {each.name: each.rounds for each in rates},
            "kept_share": shares,
        }
        write_whole(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0 if share >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
