"""Streams of a camera in vitedge and in what else one would write: true age, processor time, frames/s, memory.

    python benchmarks/runtime.py BUNDLE --page docs/runtime.md [--peers PYTHON] [--rounds 3] [--quick]

An RTSP server on this machine sends frames whose numbers are burnt in, and notes when it sent each. Every way to read
them is a process of its own. They take turns, in an order drawn anew for each round. True age is the time from sending
a frame to its prediction. Hidden age is by how much it exceeds ``age_ms``. ``--peers`` is the Python of an environment
with Ultralytics, optimum-intel and OpenCV, whose dependencies exclude vitedge's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from common.pages import write_between
from numpy.typing import NDArray

from vitedge.bundle.bundle import OPENVINO_XML
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.file import open_video
from vitedge.runtime.stream.stream import Stream
from vitedge.runtime.system.machine import machine_state, processor_name
from vitedge.testing import FAKE_INFO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from camera_servers.encoded_clip import EncodedClip, open_clip, write_clip  # noqa: E402
from camera_servers.encoding import encode, moving_pictures, transport_stream  # noqa: E402
from camera_servers.servers import RtspServer, missing_packages, rtsp_server  # noqa: E402
from common.stream_child import Costs, Task  # noqa: E402

CHILD = Path(__file__).resolve().parent / "common" / "stream_child.py"
CHILD_SECONDS = 90
WIDTH, HEIGHT = 1280, 720
CLIP_FRAMES = 300
FILE_FRAMES = 1200
"""Least frames of the file: vitedge opens workers for 500 and more."""
NAMES = {
    "vitedge": "vitedge",
    "loop": "20-line loop (OpenCV, Pillow, OpenVINO)",
    "resize": "`cv2.resize`, OpenVINO",
    "ultralytics": "Ultralytics, yolo11s-cls",
    "optimum": "optimum-intel pipeline, ViT-Tiny",
}
PEERS = ("ultralytics", "optimum")
OWN_FRAMES = 3000
OWN_INFERENCE_SECONDS = 0.002
MAKE_PEERS = """
import sys
from ultralytics import YOLO
YOLO("yolo11s-cls.yaml").export(format="openvino", imgsz=224)
from optimum.intel import OVModelForImageClassification
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=1000)
ViTForImageClassification(config).save_pretrained("vit")
OVModelForImageClassification.from_pretrained("vit", export=True).save_pretrained("optimum")
ViTImageProcessor().save_pretrained("optimum")
"""
"""Models of similar cost, with random weights: nothing is downloaded."""


@dataclass(frozen=True)
class Target:
    """What the runtime is to reach.

    Attributes:
        name: what is measured.
        limit: the target, in words.
        measured: the figure, in words; empty if it was not measured.
        is_met: whether the target is met.
    """

    name: str
    limit: str
    measured: str
    is_met: bool

    def row(self) -> str:
        """Return a line of the table."""
        return f"| {self.name} | {self.limit} | {self.measured} | {'yes' if self.is_met else '**no**'} |"


@dataclass(frozen=True)
class CameraRound:
    """Four cameras, saturated, in one round.

    Attributes:
        cameras: predictions a second.
        benchmark_app: frames a second of benchmark_app.
        allowed: frames a second if the processors did nothing but preprocess and infer.
        preprocess_ms: core-ms of preprocessing a frame.
        infer_ms: core-ms of inferring a frame, at its cheapest.
    """

    cameras: float
    benchmark_app: float
    allowed: float
    preprocess_ms: float
    infer_ms: float


Rounds = Mapping[str, Sequence[Costs]]


def main() -> int:
    """Measure, print, and write the page if there is one; 1 if a target is missed."""
    arguments = _arguments()
    if missing_packages():
        print(f"no RTSP server: {missing_packages()}", file=sys.stderr)
        return 1
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        measured = Benchmark(Path(folder), arguments)
        text, missed = measured.report()
    text += f"\n\nThe whole run took {(time.monotonic() - begun) / 60:.0f} minutes."
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "runtime", text)
    return int(missed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run of a camera")
    parser.add_argument("--clip", type=Path, help="a video to send and to read; drawn pictures by default")
    parser.add_argument("--peers", type=Path, help="Python with ultralytics, optimum-intel and opencv-python-headless")
    parser.add_argument("--quick", action="store_true", help="one short round: whether everything works")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0
    return arguments


class Benchmark:
    """All measurements.

    Args:
        folder: for clips and models.
        arguments: of the command line.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._rounds: int = arguments.rounds
        self._seconds: float = arguments.seconds
        self._warm_up = min(2.0, self._seconds)
        self._bundle: Path = arguments.bundle
        self._quick: bool = arguments.quick
        self._clip: Path | None = arguments.clip
        self._peers: Path | None = arguments.peers
        self._models = {"vitedge": self._bundle, **dict.fromkeys(("loop", "resize"), self._bundle / OPENVINO_XML)}
        self._missing = dict.fromkeys(PEERS, "--peers was not given")
        if self._peers is not None:
            self._make_peers()

    def _make_peers(self) -> None:
        """Make the models of the peers; what fails is named on the page."""
        environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        environment["YOLO_CONFIG_DIR"] = str(self._folder)
        made = subprocess.run(
            [self._peers, "-c", MAKE_PEERS], cwd=self._folder, env=environment, capture_output=True, text=True
        )
        for name, model in (("ultralytics", "yolo11s-cls_openvino_model"), ("optimum", "optimum")):
            if (self._folder / model).is_dir():
                self._models[name] = self._folder / model
                del self._missing[name]
            else:
                self._missing[name] = (made.stderr.strip() or "it wrote no model").splitlines()[-1]

    def report(self) -> tuple[str, bool]:
        """Measure everything; return the page's text, and whether a target is missed."""
        spare = self._camera(fps=30)
        b_frames = self._camera(fps=30, kind="h264b", ways=("vitedge",))
        one_core = self._camera(fps=60, cpus=(max(os.sched_getaffinity(0)),))
        file = self._file()
        stops = self._stops(3 if self._quick else 20)
        own = [own_python_ms(self._bundle, OWN_FRAMES // (10 if self._quick else 1)) for _ in range(self._rounds)]
        cameras = self._cameras()
        targets = [
            *ages(spare["vitedge"]),
            planes_target(self._planes(5 if self._quick else 40)),
            cameras_target(cameras),
            stop_target(stops),
            own_target(own),
        ]
        state = machine_state()
        parts = (
            f"{processor_name()}, {state.cpus} CPUs, load {state.load_average:.1f}, {self._rounds} rounds of "
            f"{self._seconds:g} s, {WIDTH}x{HEIGHT}, H.264.",
            targets_table(targets),
            cameras_bound(cameras),
            "Cores to spare, 30 frames/s:",
            ages_table(spare),
            "The same camera with B-frames, which it sends in another order than it takes them:",
            ages_table(b_frames),
            "One core, 60 frames/s; the camera has a core of its own:",
            ages_table(one_core),
            "A file, as fast as possible:",
            speed_table(file),
            *(f"{NAMES[name]}: not measured, {why}." for name, why in self._missing.items()),
        )
        return "\n\n".join(parts), not all(each.is_met for each in targets)

    def _encoded(self, fps: int, kind: str) -> EncodedClip:
        path = self._folder / f"{kind}-{fps}"
        if path.exists():
            return open_clip(path)
        return encode(path, self._pictures(), kind, fps=fps, gop=fps, bit_rate=4_000_000)

    def _pictures(self) -> Iterable[NDArray[np.uint8]]:
        """The pictures of the clip, or drawn ones."""
        if self._clip is None:
            return moving_pictures(CLIP_FRAMES // (3 if self._quick else 1), WIDTH, HEIGHT)
        return filmed_pictures(self._clip)

    @contextmanager
    def _serving(self, fps: int, kind: str, cpus: Sequence[int]) -> Iterator[tuple[RtspServer, EncodedClip]]:
        """Serve a clip on the processors that are left."""
        clip, all_cpus = self._encoded(fps, kind), os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, (all_cpus - set(cpus)) or all_cpus)
            server = rtsp_server(self._folder, {"/cam": [clip]})
        finally:
            os.sched_setaffinity(0, all_cpus)
        with server:
            yield server, clip

    def _camera(
        self, *, fps: int, kind: str = "h264", ways: Sequence[str] | None = None, cpus: tuple[int, ...] = ()
    ) -> Rounds:
        """Every way reads the same camera in every round."""
        with self._serving(fps, kind, cpus) as (server, clip):
            tasks = {
                way: Task(
                    way,
                    server.url("/cam"),
                    str(model),
                    times=str(server.times),
                    fps=fps,
                    frames=clip.frames,
                    seconds=self._seconds,
                    warm_up=self._warm_up,
                    cpus=cpus,
                )
                for way, model in self._models.items()
                if ways is None or way in ways
            }
            return self._in_turns(tasks)

    def _file(self) -> Rounds:
        """Every way reads the same file for some seconds in every round."""
        clip = repeated(self._encoded(30, "h264"), FILE_FRAMES, self._folder / "repeated")
        path = str(transport_stream(clip, self._folder / "clip.ts").path)
        return self._in_turns(
            {way: Task(way, path, str(model), seconds=self._seconds) for way, model in self._models.items()}
        )

    def _in_turns(self, tasks: Mapping[str, Task]) -> Rounds:
        found: dict[str, list[Costs]] = {way: [] for way in tasks}
        order, shuffle = list(tasks), random.Random(0)
        for number in range(self._rounds):
            shuffle.shuffle(order)
            for way in order:
                found[way].append(self._run(tasks[way]))
                print(f"round {number + 1} of {self._rounds}: {tasks[way].source}, {way}", file=sys.stderr)
        return found

    def _run(self, task: Task) -> Costs:
        """Run a task in a process of its own."""
        python = str(self._peers) if task.way in PEERS else sys.executable
        child = subprocess.run(
            [python, str(CHILD), json.dumps(asdict(task))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=CHILD_SECONDS,
            env={**os.environ, "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(self._folder)},
        )
        if child.returncode != 0:
            raise RuntimeError(f"{task.way} ended with {child.returncode}")
        return Costs(**json.loads(child.stdout.splitlines()[-1]))

    def _planes(self, rounds: int) -> list[float]:
        """Processor time from planes to the input over the time by way of BGR, for pictures of 1920x1080, by round."""
        path = self._folder / "hd"
        clip = transport_stream(encode(path, moving_pictures(10, 1920, 1080)), self._folder / "hd.ts")
        with load(self._bundle) as classifier, open_video(clip.path, SourceOptions(planes=True)) as video:
            frames = [frame.pixels for frame in video]
            planes = [each for each in frames if isinstance(each, YuvPlanes)]
            assert planes
            ways = (classifier.prepare, lambda each: classifier.prepare(each.bgr()))
            spent = [[cpu_seconds(way, planes) for way in ways] for _ in range(rounds + 1)]
        return [direct / through_bgr for direct, through_bgr in spent[1:]]

    def _cameras(self) -> list[CameraRound]:
        """Four cameras, saturated, in each round."""
        script, found = ROOT / "benchmarks" / "cameras.py", self._folder / "cameras.json"
        options = ("--seconds", f"{self._seconds:g}", "--rounds", f"{self._rounds}", "--json", str(found))
        command = [sys.executable, str(script), str(self._bundle), str(self._folder / "clip.ts"), *options]
        subprocess.run(command, stdout=subprocess.DEVNULL)  # its exit code says whether it meets the target
        return [
            CameraRound(
                cameras=each["overloaded"]["fps"],
                benchmark_app=each["benchmark_app"],
                allowed=each["allowed_fps"],
                preprocess_ms=each["preprocess_ms"],
                infer_ms=each["infer_ms"],
            )
            for each in json.loads(found.read_text("ascii"))["rounds"]
        ]

    def _stops(self, times: int) -> list[float]:
        """Seconds from ``stop`` to the end of the consumer, while the camera hangs."""
        seconds = []
        with self._serving(30, "h264", ()) as (server, _), load(self._bundle) as classifier:
            for _ in range(times):
                with classifier.stream(server.url("/cam")) as stream:
                    seconds.append(stopped_within(stream, server))
        return seconds


def stopped_within(stream: Stream, server: RtspServer) -> float:
    """Stop a stream whose camera hangs, and return the seconds until its consumer got the end."""
    next(stream)
    consumer = threading.Thread(target=lambda: [None for _ in stream])
    consumer.start()
    server.stop()
    try:
        time.sleep(0.5)
        begun = time.monotonic()
        stream.stop()
        consumer.join()
        return time.monotonic() - begun
    finally:
        server.resume()


def repeated(clip: EncodedClip, frames: int, path: Path) -> EncodedClip:
    """Write a clip over and over into a new one, until it has as many frames."""
    pictures = clip.pictures()
    times = range(-(-frames // clip.frames))
    numbered = (replace(each, number=each.number + time * clip.frames) for time in times for each in pictures)
    return write_clip(path, clip.codec, clip.fps, numbered)


def filmed_pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a video, as large as those of the camera."""
    import av

    with av.open(str(path)) as video:
        for frame in islice(video.decode(video=0), CLIP_FRAMES):
            yield frame.to_ndarray(format="bgr24", width=WIDTH, height=HEIGHT)


def cpu_seconds(call: Callable[[YuvPlanes], object], planes: Sequence[YuvPlanes]) -> float:
    """Return the processor time of a call on each picture."""
    begun = time.process_time()
    for each in planes:
        call(each)
    return time.process_time() - begun


class WaitingEngine:
    """An engine that gives the same logits after a while, in which it leaves the processors to others."""

    info = FAKE_INFO

    def __init__(self, input_size: tuple[int, int], classes: int) -> None:
        self.frame = np.zeros((*input_size, 3), dtype=np.uint8)
        self._logits = np.arange(classes, dtype=np.float32)

    def run(self) -> NDArray[np.float32]:
        """Return the logits."""
        time.sleep(OWN_INFERENCE_SECONDS)
        return self._logits

    def close(self) -> None:
        """Hold nothing."""


def own_python_ms(bundle: Path, frames: int) -> float:
    """Return the processor time of a prediction in a stream, of all threads, without preprocessing and inference.

    What remains is the queue, the threads that wake each other, the ranking of the classes, and the prediction. As with
    OpenVINO, each worker has an engine of its own, and Python runs in other threads while an engine computes.
    """
    with load(bundle) as classifier:
        size, labels = classifier.preprocessing.input_size, classifier.labels
    engine, *others = [WaitingEngine(size, len(labels)) for _ in range(3)]
    picture = np.zeros((*size, 3), dtype=np.uint8)
    with Classifier(engine, Preprocessing(size, size), labels, open_workers=lambda _: others) as waiting:
        begun = time.process_time()
        for _ in range(frames):
            engine.frame[...] = waiting.prepare(picture)
            engine.run()
        streamed = time.process_time()
        with waiting.stream([picture] * frames) as stream:
            for _ in stream:
                pass
        return (time.process_time() - streamed - (streamed - begun)) * 1e3 / frames


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile; NaN of no values."""
    return float(np.percentile(values, percent)) if values else float("nan")


def over_rounds(values: Iterable[float], digits: int = 0) -> str:
    """Return the median of a figure over the rounds, and its range."""
    found = list(values)
    return f"{statistics.median(found):.{digits}f} ({min(found):.{digits}f}-{max(found):.{digits}f})"


def ages(rounds: Sequence[Costs]) -> list[Target]:
    """Return the targets for ages, each by the median of the rounds."""
    p50 = statistics.median(percentile(each.ages_ms, 50) for each in rounds)
    p99 = statistics.median(percentile(each.ages_ms, 99) for each in rounds)
    hidden = statistics.median(percentile([abs(one) for one in each.hidden_ms], 99) for each in rounds)
    return [
        Target("difference of `age_ms` and true age, p99", "≤ 15 ms", f"{hidden:.1f} ms", hidden <= 15),
        Target("true age at 30 frames/s without B-frames, p50", "≤ 45 ms", f"{p50:.1f} ms", p50 <= 45),
        Target("true age at 30 frames/s without B-frames, p99", "≤ 60 ms", f"{p99:.1f} ms", p99 <= 60),
    ]


def planes_target(ratios: Sequence[float]) -> Target:
    """Return the target for pictures of 1920x1080."""
    ratio = statistics.median(ratios)
    name = "CPU from planes of 1920x1080 to the input, over BGR conversion and preprocessing"
    return Target(name, "≤ 0.5 x", f"{over_rounds(ratios, 2)} x", ratio <= 0.5)


def cameras_target(rounds: Sequence[CameraRound]) -> Target:
    """Return the target for four cameras."""
    ratios = [each.cameras / each.benchmark_app for each in rounds]
    ratio = statistics.median(ratios)
    name = "four cameras, saturated, over `benchmark_app -hint throughput`"
    return Target(name, "≥ 0.95 x", f"{over_rounds(ratios, 2)} x", ratio >= 0.95)


def cameras_bound(rounds: Sequence[CameraRound]) -> str:
    """Say what the processors allow to four cameras, and how much of that they reach."""
    preprocessing = over_rounds((each.preprocess_ms for each in rounds), 2)
    inference = over_rounds((each.infer_ms for each in rounds), 2)
    bound = over_rounds((each.allowed / each.benchmark_app for each in rounds), 2)
    reached = over_rounds((each.cameras / each.allowed for each in rounds), 2)
    return (
        "benchmark_app infers frames that are in its input already, one at a time, and neither decodes nor resizes. "
        f"The frames of the cameras, decoded before, take {preprocessing} core-ms of preprocessing and {inference} of "
        f"inference in the workers. If the processors did nothing else, the cameras would reach {bound} x "
        f"benchmark_app. They reach {reached} of that."
    )


def stop_target(seconds: Sequence[float]) -> Target:
    """Return the target for ``stop``."""
    worst = max(seconds)
    return Target(
        f"`stop` while the camera hangs, longest of {len(seconds)}", "≤ 0.3 s", f"{worst:.3f} s", worst <= 0.3
    )


def own_target(milliseconds: Sequence[float]) -> Target:
    """Return the target for vitedge's own Python."""
    return Target(
        "CPU of a prediction beside preprocessing and inference",
        "≤ 0.2 ms",
        f"{over_rounds(milliseconds, 3)} ms",
        statistics.median(milliseconds) <= 0.2,
    )


def targets_table(targets: Sequence[Target]) -> str:
    """Return the table of targets."""
    return "\n".join(("| what | target | measured | met |\n|---|---|---|---|", *(each.row() for each in targets)))


def ages_table(rounds: Rounds) -> str:
    """Return the table of a camera."""
    head = "| way | true age p50, ms | p99, ms | hidden age p99, ms | predictions/s | CPU ms a prediction | RSS, MB |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for way, costs in rounds.items():
        hidden = [percentile([abs(one) for one in each.hidden_ms], 99) for each in costs if each.hidden_ms]
        cells = (
            NAMES[way],
            over_rounds(percentile(each.ages_ms, 50) for each in costs),
            over_rounds(percentile(each.ages_ms, 99) for each in costs),
            over_rounds(hidden, 1) if hidden else "states no age",
            over_rounds((each.predictions / each.seconds for each in costs), 1),
            over_rounds((each.cpu_seconds * 1e3 / each.predictions for each in costs), 1),
            over_rounds(each.megabytes for each in costs),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed_table(rounds: Rounds) -> str:
    """Return the table of a file; ratios are taken within each round."""
    lines = ["| way | frames/s | vitedge is faster | CPU ms a prediction | RSS, MB |", "|---|---|---|---|---|"]
    speeds = {way: [each.predictions / each.seconds for each in costs] for way, costs in rounds.items()}
    for way, costs in rounds.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds["vitedge"], speeds[way], strict=True)]
        cells = (
            NAMES[way],
            over_rounds(speeds[way], 1),
            "" if way == "vitedge" else f"{over_rounds(ratios, 2)} x",
            over_rounds((each.cpu_seconds * 1e3 / each.predictions for each in costs), 1),
            over_rounds(each.megabytes for each in costs),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
