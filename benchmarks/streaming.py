"""How much of the slowest stage's speed a stream under the policy `every` keeps.

Each round times, one after the other over the same clip: decoding alone, preprocessing alone, inference alone, the
three in one thread, and the pipeline. Inference alone is what the classifier does for one frame after the other, with
all processors on each; "in workers" is the same number of frames in the workers of the stream and nothing else, and
"in batches" several at once, where that pays. Ratios are taken within each round, so that what slows the machine for a
minute slows both of their sides.

Core-ms are the milliseconds that a frame costs, summed over all threads. The stages share the processors, so that no
pipeline can be faster than processors / (core-ms of decoding + preprocessing + the cheaper inference).

    python benchmarks/streaming.py BUNDLE CLIP [--rounds 9] [--frames 300] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from common.rates import KEPT_FRAMES, Rate, in_workers, inference_rate, rate
from common.taken import load_now

from vitedge.bundle.bundle import Bundle
from vitedge.files import write_atomic
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import Engine
from vitedge.runtime.engines.open import open_workers
from vitedge.runtime.load import load
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.system.machine import machine_state, processor_name
from vitedge.runtime.system.owned import close_all
from vitedge.version import VERSION

TARGET = 0.95
DECODE, PREPROCESS, INFER, IN_WORKERS = "decode", "preprocess", "infer", "infer, in workers"
IN_BATCHES = "infer, in batches"
SERIAL, PIPELINE = "serial", "pipeline"

Case = Callable[[], Rate]
Round = Mapping[str, Rate]


@dataclass(frozen=True)
class Share:
    """The pipeline's rate over another one, in each round.

    Attributes:
        name: what it is compared with.
        rounds: one ratio a round, in order.
    """

    name: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.rounds)

    def row(self, target: str) -> str:
        """Format a line of the table."""
        return f"| {self.name} | {self.median:.3f} ({min(self.rounds):.3f}-{max(self.rounds):.3f}) | {target} |"


def frames_of(clip: Path, count: int) -> Iterator[Frame]:
    """Yield ``count`` frames of the clip, from its start again where it is shorter."""
    delivered = 0
    while delivered < count:
        with open_source(clip) as source:
            for frame in islice(source, count - delivered):
                delivered += 1
                yield frame


def cases(classifier: Classifier, engines: Sequence[Engine], clip: Path, count: int) -> dict[str, Case]:
    """Name the cases to time: each handles ``count`` frames."""
    kept = [frame.image for frame in frames_of(clip, KEPT_FRAMES)]
    prepared = [classifier.prepare(image) for image in kept]
    workers = classifier.workers() or (classifier,)
    items: dict[str, Callable[[], Iterable[object]]] = {
        DECODE: lambda: frames_of(clip, count),
        PREPROCESS: lambda: map(classifier.prepare, islice(cycle(kept), count)),
        INFER: lambda: map(classifier.infer, islice(cycle(prepared), count)),
        IN_WORKERS: lambda: in_workers(workers, islice(cycle(prepared), count)),
        SERIAL: lambda: (classifier.infer(classifier.prepare(frame.image)) for frame in frames_of(clip, count)),
        PIPELINE: lambda: classifier.stream(frames_of(clip, count), policy="every"),
    }
    timed: dict[str, Case] = {name: lambda given=given: rate(given()) for name, given in items.items()}
    return {**timed, IN_BATCHES: lambda: inference_rate(engines, count)} if engines else timed


def measure(timed: Mapping[str, Case], rounds: int) -> list[Round]:
    """Run every case in every round; a first round warms up and is not counted."""
    found = []
    for number in range(rounds + 1):
        found.append({name: case() for name, case in timed.items()})
        sys.stderr.write(f"round {number} of {rounds}\n")
    return found[1:]


def row(name: str, rates: Sequence[Rate]) -> str:
    """Format a line of the table of cases."""
    fps, core_ms = [each.fps for each in rates], statistics.median(each.core_ms for each in rates)
    median = statistics.median(fps)
    return f"| {name} | {median:.1f} | {1000 / median:.2f} | {core_ms:.2f} | {min(fps):.1f}-{max(fps):.1f} |"


def shares(rounds: Sequence[Round], cpus: int) -> list[Share]:
    """Compare the pipeline with its slowest stage, with inference in workers, and with what is possible."""
    against: dict[str, Callable[[Round], float]] = {
        "the slowest stage alone": lambda each: min(each[name].fps for name in (DECODE, PREPROCESS, INFER)),
        "inference alone, in workers": lambda each: each[IN_WORKERS].fps,
        f"what {cpus} processors allow": lambda each: allowed_fps(each, cpus),
    }
    return [
        Share(f"pipeline / {name}", tuple(each[PIPELINE].fps / other(each) for each in rounds))
        for name, other in against.items()
    ]


def allowed_fps(rates: Round, cpus: int) -> float:
    """Return frames per second if all processors did only the work of the three stages, at its cheapest."""
    inferring = min(rates[name].core_ms for name in (INFER, IN_WORKERS, IN_BATCHES) if name in rates)
    return 1000 * cpus / (rates[DECODE].core_ms + rates[PREPROCESS].core_ms + inferring)


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
        engines = open_workers(Bundle.open(arguments.bundle), threads=arguments.threads, batches=True)
        rounds = measure(cases(classifier, engines, arguments.clip, arguments.frames), arguments.rounds)
        close_all(engine.close for engine in engines)
        info, workers = classifier.info, len(classifier.workers())
    state = machine_state()
    compared = shares(rounds, state.cpus)
    print(
        f"{info.name} {info.version}, {info.effective_precision}, {workers} workers, {processor_name()}, "
        f"{state.cpus} CPUs, load {load_now()}; {arguments.clip.name}, {arguments.frames} frames, "
        f"{arguments.rounds} rounds\n"
    )
    print("| case | frames/s (median) | ms/frame | core-ms/frame | range of frames/s |\n|---|---|---|---|---|")
    print("\n".join(row(name, [each[name] for each in rounds]) for name in rounds[0]))
    print("\n| ratio | median (range over rounds) | target |\n|---|---|---|")
    print("\n".join(each.row(f"≥ {TARGET}" if each is compared[0] else "") for each in compared))
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "engine": asdict(info),
            "machine": asdict(state),
            "clip": arguments.clip.name,
            "frames": arguments.frames,
            "threads": arguments.threads,
            "workers": workers,
            "fps": {name: [each[name].fps for each in rounds] for name in rounds[0]},
            "core_ms": {name: [each[name].core_ms for each in rounds] for name in rounds[0]},
            "shares": {each.name: each.rounds for each in compared},
        }
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0 if compared[0].median >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
