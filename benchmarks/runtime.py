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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
from common.own_python import own_python_ms
from common.pages import write_between
from common.runtime_page import CameraRound, Measured, Rounds, page_text
from numpy.typing import NDArray

from vitedge.bundle.bundle import OPENVINO_XML
from vitedge.runtime.load import load
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.file import open_video
from vitedge.runtime.stream.stream import Stream
from vitedge.runtime.system.machine import machine_state, processor_name

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
PEERS = ("ultralytics", "optimum")
OWN_FRAMES = 3000
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
        measured = self._measured()
        state = machine_state()
        where = (
            f"{processor_name()}, {state.cpus} CPUs, load {state.load_average:.1f}, {self._rounds} rounds of "
            f"{self._seconds:g} s, {WIDTH}x{HEIGHT}, H.264."
        )
        return page_text(measured, where), not all(each.is_met for each in measured.targets())

    def _measured(self) -> Measured:
        return Measured(
            spare=self._camera(fps=30),
            b_frames=self._camera(fps=30, kind="h264b", ways=("vitedge",)),
            one_core=self._camera(fps=60, cpus=(max(os.sched_getaffinity(0)),)),
            file=self._file(),
            stops=self._stops(3 if self._quick else 20),
            own_ms=[own_python_ms(self._bundle, OWN_FRAMES // (10 if self._quick else 1)) for _ in range(self._rounds)],
            cameras=self._cameras(),
            planes=self._planes(5 if self._quick else 40),
            missing=self._missing,
        )

    def _encoded(self, fps: int, kind: str) -> EncodedClip:
        path = self._folder / f"{kind}-{fps}"
        if path.exists():
            return open_clip(path)
        return encode(path, self._pictures(), kind, fps=fps, gop=fps, bit_rate=4_000_000)

    def _pictures(self) -> Iterable[NDArray[np.uint8]]:
        """Return the pictures of the clip, or drawn ones."""
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
        """Read the same camera in every way in every round."""
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
        """Read the same file in every way for some seconds in every round."""
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
        """Measure processor time from planes to the input over the time by way of BGR, at 1920x1080, by round."""
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
        """Measure four cameras, saturated, in each round."""
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
        """Measure the seconds from ``stop`` to the end of the consumer, while the camera hangs."""
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
    """Yield the pictures of a video, as large as the camera's."""
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


if __name__ == "__main__":
    sys.exit(main())
