"""Several cameras on one classifier: throughput against OpenVINO's benchmark_app, and ages against a classifier each.

Each round runs, one after the other, for the same time:

- benchmark_app with the throughput hint, on the IR of the bundle: inference, one frame at a time, and nothing else;
- the cameras, at half as many frames again as the engine can classify: `classifier.streams` with its workers;
- the cameras at their usual rate, on one classifier, and on a classifier each with its share of the threads.

The cameras deliver planes that were decoded before, so that preprocessing and inference alone are measured. Both share
the processors, which allow processors / (core-ms of preprocessing + of inference at its cheapest) frames a second.
Core-ms are the milliseconds that a frame costs, summed over all threads; inference is cheapest in workers, in batches
where those pay. The ratios compare the cameras with benchmark_app and with that bound, and the bound with
benchmark_app.

    python benchmarks/cameras.py BUNDLE CLIP [--cameras 4] [--fps 30] [--seconds 10] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from common.rates import KEPT_FRAMES, Rate, inference_rate, rate
from common.taken import load_now

from vitedge.bundle.bundle import OPENVINO_XML, Bundle
from vitedge.files import write_atomic
from vitedge.prediction import Image, Prediction
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.open import open_engine, open_workers
from vitedge.runtime.load import load
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.system.machine import machine_state, processor_name, usable_cpus
from vitedge.runtime.system.owned import close_all
from vitedge.version import VERSION

TARGET = 0.95
OVERLOAD = 1.5
WARM_UP_SECONDS = 5.0
COUNTED = 300
MIB = 1 << 20

Pictures = Sequence[Image | YuvPlanes]
HOLDS = """
import sys
from vitedge.runtime.load import load
from vitedge.runtime.system.machine import resident_bytes
path, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before = resident_bytes()
held = [load(path, threads=threads or None) for _ in range(count)]
for classifier in held:
    classifier.infer(classifier.prepare(__import__("numpy").zeros((256, 256, 3), "uint8")))
if not threads:
    held[0].workers(batches=True)
print(resident_bytes() - before)
for classifier in held:
    classifier.close()
"""


@dataclass(frozen=True)
class Ages:
    """Ages of predictions in milliseconds, and the rate at which they came.

    Attributes:
        p50: median.
        p99: 99th percentile.
        fps: predictions a second, of all cameras.
        least: predictions of the camera that got the fewest, over the mean of all.
    """

    p50: float
    p99: float
    fps: float
    least: float


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        benchmark_app: frames a second of benchmark_app.
        overloaded: the cameras, at more frames than the engine can classify.
        shared: the cameras at their usual rate, on one classifier.
        apart: the cameras at their usual rate, on a classifier each.
        preprocess_ms: core-ms of preprocessing a frame.
        infer_ms: core-ms of inferring a frame, at its cheapest.
        cpus: number of processors.
    """

    benchmark_app: float
    overloaded: Ages
    shared: Ages
    apart: Ages
    preprocess_ms: float
    infer_ms: float
    cpus: int

    @property
    def allowed_fps(self) -> float:
        """Return the frames per second if the processors did nothing but preprocess and infer."""
        return 1000 * self.cpus / (self.preprocess_ms + self.infer_ms)


def benchmark_app(ir: Path, seconds: float) -> float:
    """Measure the frames per second that OpenVINO's own tool reaches with an IR."""
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [str(tool), "-m", str(ir), "-d", "CPU", "-hint", "throughput", "-t", str(max(1, round(seconds)))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Throughput:\s+([\d.]+) FPS", printed)
    if found is None:
        raise SystemExit(f"benchmark_app gave no throughput:\n{printed}")
    return float(found[1])


class Camera(FrameSource):
    """A camera that delivers the same pictures over and over, at a rate."""

    name = "the camera"
    live = True

    def __init__(self, pictures: Pictures, fps: float) -> None:
        self.fps = fps
        self._pictures = pictures
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, each captured when it is due."""
        begun = time.monotonic()
        for index, pixels in enumerate(cycle(self._pictures)):
            if self._closed.wait(max(0.0, begun + index / (self.fps or 1.0) - time.monotonic())):
                return
            yield Frame(pixels, index)

    def close(self) -> None:
        """End the frames."""
        self._closed.set()


def ages_of(predictions: Iterable[Prediction], seconds: float) -> Ages:
    """Take predictions for some seconds, after a warm-up, and sum them up."""
    begun = time.monotonic()
    taken: list[Prediction] = []
    for prediction in predictions:
        now = time.monotonic() - begun
        if now > WARM_UP_SECONDS:
            taken.append(prediction)
        if now > WARM_UP_SECONDS + seconds:
            break
    return summed_up([each.age_ms for each in taken], [str(each.source) for each in taken], seconds)


def summed_up(ages: Sequence[float], names: Sequence[str], seconds: float) -> Ages:
    """Summarize the ages of predictions, and how evenly they are spread."""
    counts = [names.count(name) for name in set(names)]
    p50, p99 = np.percentile(ages, (50, 99))
    return Ages(float(p50), float(p99), len(ages) / seconds, min(counts) / statistics.mean(counts))


def on_one(classifier: Classifier, images: Pictures, cameras: int, fps: float, seconds: float) -> Ages:
    """Run the cameras on one classifier."""
    sources = {f"camera {number}": Camera(images, fps) for number in range(cameras)}
    with classifier.streams(sources) as streams:
        return ages_of(streams, seconds)


def on_one_each(bundle: Path, images: Pictures, cameras: int, fps: float, seconds: float) -> Ages:
    """Run each camera on a classifier of its own, in threads, which share the processors."""
    ages: dict[str, list[float]] = {f"camera {number}": [] for number in range(cameras)}
    threads = max(1, usable_cpus() // cameras)
    with ExitStack() as opened:
        classifiers = [opened.enter_context(load(bundle, threads=threads)) for _ in ages]

        def watch(name: str, classifier: Classifier) -> None:
            begun = time.monotonic()
            with classifier.stream(Camera(images, fps)) as stream:
                for prediction in stream:
                    now = time.monotonic() - begun
                    if now > WARM_UP_SECONDS:
                        ages[name].append(prediction.age_ms)
                    if now > WARM_UP_SECONDS + seconds:
                        break

        watchers = [threading.Thread(target=watch, args=pair) for pair in zip(ages, classifiers, strict=True)]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
    names = [name for name, each in ages.items() for _ in each]
    return summed_up([age for each in ages.values() for age in each], names, seconds)


def memory_of(bundle: Path, classifiers: int, threads: int) -> float:
    """Measure the MiB of some classifiers in their own process; 0 threads for one classifier with its workers."""
    command = [sys.executable, "-c", HOLDS, str(bundle), str(classifiers), str(threads)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / MIB


def preprocessing_rate(classifier: Classifier, images: Pictures) -> Rate:
    """Measure preprocessing alone, in one thread."""
    for image in images:
        classifier.prepare(image)
    return rate(map(classifier.prepare, islice(cycle(images), COUNTED)))


def measure(arguments: argparse.Namespace, classifier: Classifier) -> Iterator[Round]:
    """Yield every round."""
    with open_source(arguments.clip, SourceOptions(planes=True)) as clip:
        images = [frame.pixels for frame in islice(clip, KEPT_FRAMES)]
    ir, seconds, cameras = arguments.bundle / OPENVINO_XML, arguments.seconds, arguments.cameras
    classifier.workers(batches=True)  # else they would open while the first round warms up
    engines = open_workers(Bundle.open(arguments.bundle), batches=True) or [open_engine(Bundle.open(arguments.bundle))]
    for _ in range(arguments.rounds):
        preprocessing, inference = preprocessing_rate(classifier, images), inference_rate(engines, COUNTED)
        too_fast = OVERLOAD * inference.fps / cameras
        yield Round(
            benchmark_app=benchmark_app(ir, seconds),
            overloaded=on_one(classifier, images, cameras, too_fast, seconds),
            shared=on_one(classifier, images, cameras, arguments.fps, seconds),
            apart=on_one_each(arguments.bundle, images, cameras, arguments.fps, seconds),
            preprocess_ms=preprocessing.core_ms,
            infer_ms=inference.core_ms,
            cpus=usable_cpus(),
        )
    close_all(engine.close for engine in engines)


def line(name: str, ages: Sequence[Ages]) -> str:
    """Format a line of the table of ages: the median over the rounds."""
    keys = ("p50", "p99", "fps", "least")
    p50, p99, fps, least = (statistics.median(getattr(each, key) for each in ages) for key in keys)
    return f"| {name} | {fps:.1f} | {p50:.0f} | {p99:.0f} | {least:.2f} |"


def share(name: str, ratios: Sequence[float], target: str = "") -> str:
    """Format a line of the table of ratios."""
    return f"| {name} | {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) | {target} |"


def main() -> int:
    """Measure, print two tables, and write JSON where asked; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--fps", type=float, default=30.0, help="of each camera, in the table of ages")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shared_mib = memory_of(arguments.bundle, 1, 0)
    apart_mib = memory_of(arguments.bundle, arguments.cameras, max(1, usable_cpus() // arguments.cameras))
    with load(arguments.bundle) as classifier:
        rounds = list(measure(arguments, classifier))
        info = classifier.info
    state = machine_state()
    achieved = [each.overloaded.fps / each.benchmark_app for each in rounds]
    print(
        f"{info.name} {info.version}, {info.effective_precision}, {processor_name()}, {state.cpus} CPUs, load "
        f"{load_now()}; {arguments.cameras} cameras, {arguments.clip.name}, {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s\n"
    )
    print("| cameras | predictions/s | age p50 ms | age p99 ms | least share |\n|---|---|---|---|---|")
    print(line("overloaded, one classifier", [each.overloaded for each in rounds]))
    print(line(f"{arguments.fps:g} fps, one classifier ({shared_mib:.0f} MiB)", [each.shared for each in rounds]))
    print(line(f"{arguments.fps:g} fps, a classifier each ({apart_mib:.0f} MiB)", [each.apart for each in rounds]))
    print("\n| ratio | median (range over rounds) | target |\n|---|---|---|")
    print(share("cameras / benchmark_app", achieved, f"≥ {TARGET}"))
    allowed = f"what {state.cpus} processors allow"
    print(share(f"{allowed} / benchmark_app", [each.allowed_fps / each.benchmark_app for each in rounds]))
    print(share(f"cameras / {allowed}", [each.overloaded.fps / each.allowed_fps for each in rounds]))
    preprocess_ms, infer_ms = (
        statistics.median(getattr(each, name) for each in rounds) for name in ("preprocess_ms", "infer_ms")
    )
    print(f"\nA frame takes {preprocess_ms:.2f} core-ms of preprocessing and {infer_ms:.2f} of inference.")
    if arguments.json is not None:
        report = {
            "version": 1,
            "vitedge": VERSION,
            "engine": asdict(info),
            "machine": asdict(state),
            "clip": arguments.clip.name,
            "cameras": arguments.cameras,
            "rounds": [{**asdict(each), "allowed_fps": each.allowed_fps} for each in rounds],
            "mib": {"one classifier": shared_mib, "a classifier each": apart_mib},
        }
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    return 0 if statistics.median(achieved) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
