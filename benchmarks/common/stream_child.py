"""A program that classifies a stream or a file in one way, and prints what that costs: ``stream_child.py TASK``.

TASK is JSON, the fields of ``Task``. A peer's environment needs no vitedge. Vitedge drops the frames of a live source
that come too fast; the others read one frame after the other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2] / "tests" / "support")  # in the place of this folder

from camera_servers.burnt_numbers import read  # noqa: E402
from camera_servers.send_times import SendTimes  # noqa: E402

RESIZED, INPUT = 256, 224
VERIFIED = 15
"""Each prediction of vitedge that is a multiple of it has its number read from the picture, the others by timestamp."""


@dataclass(frozen=True)
class Task:
    """What to read, and how.

    Attributes:
        way: one of ``WAYS``.
        source: address or path.
        model: a bundle; the ``.xml`` of one; or the folder of a peer's model.
        times: table of send times; empty for a file.
        fps: frames per second of the camera.
        frames: frames of its clip.
        seconds: how long to measure, unless a file ends before.
        warm_up: seconds before that, of a camera.
        cpus: processors to run on; empty for all.
    """

    way: str
    source: str
    model: str
    times: str = ""
    fps: float = 30.0
    frames: int = 1
    seconds: float = 5.0
    warm_up: float = 2.0
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Seen:
    """A prediction.

    Attributes:
        at_ns: when it was there.
        number: finds the number of its frame; None if the picture has none.
        captured_ns: time of capture, as the way states it; None if it states none.
    """

    at_ns: int
    number: Callable[[], int | None]
    captured_ns: int | None = None


def vitedge(task: Task) -> Iterator[Seen]:
    """Classify with vitedge, as its users do."""
    from vitedge.runtime.load import load

    numbers = _Numbers(task)
    with load(task.model) as classifier, classifier.stream(task.source) as stream:
        for prediction in stream:
            yield Seen(time.monotonic_ns(), lambda seen=prediction: numbers.of(seen), prediction.captured_ns)


class _Numbers:
    """Finds the numbers of frames by their timestamps, because nobody else wants the pictures."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._known: tuple[int, float] = (0, 0.0)
        self._asked = 0

    def of(self, prediction: Any) -> int | None:
        self._asked += 1
        if self._asked % VERIFIED == 1:
            number = read(prediction.image)
            self._known = self._known if number is None else (number, prediction.pts)
            return number
        number, pts = self._known
        return int(number + round((prediction.pts - pts) * self._task.fps)) % self._task.frames


def loop(task: Task) -> Iterator[Seen]:
    """Classify in the twenty lines that one writes first: OpenCV, Pillow's resize as timm does it, OpenVINO."""
    from PIL import Image

    infer = _openvino(task.model)
    for frame in _captured(task.source):
        image = Image.fromarray(frame[:, :, ::-1])
        scale = RESIZED / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - INPUT) // 2, (image.height - INPUT) // 2
        infer(image.crop((left, top, left + INPUT, top + INPUT)))
        yield Seen(time.monotonic_ns(), lambda seen=frame: read(seen))


def resize(task: Task) -> Iterator[Seen]:
    """Classify with ``cv2.resize``, which does not antialias, and OpenVINO."""
    import cv2

    infer = _openvino(task.model)
    for frame in _captured(task.source):
        infer(cv2.cvtColor(cv2.resize(frame, (INPUT, INPUT), interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB))
        yield Seen(time.monotonic_ns(), lambda seen=frame: read(seen))


def ultralytics(task: Task) -> Iterator[Seen]:
    """Classify with the stream predictor of Ultralytics."""
    from ultralytics import YOLO

    model = YOLO(task.model, task="classify")
    for result in model.predict(source=task.source, stream=True, verbose=False, imgsz=INPUT):
        yield Seen(time.monotonic_ns(), lambda seen=result.orig_img: read(seen))


def optimum(task: Task) -> Iterator[Seen]:
    """Classify with a pipeline of optimum-intel, frame by frame."""
    from optimum.intel import OVModelForImageClassification
    from PIL import Image
    from transformers import ViTImageProcessor, pipeline

    model = OVModelForImageClassification.from_pretrained(task.model)
    processor = ViTImageProcessor.from_pretrained(task.model)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    for frame in _captured(task.source):
        classify(Image.fromarray(frame[:, :, ::-1]))
        yield Seen(time.monotonic_ns(), lambda seen=frame: read(seen))


WAYS: dict[str, Callable[[Task], Iterator[Seen]]] = {
    each.__name__: each for each in (vitedge, loop, resize, ultralytics, optimum)
}


def _captured(source: str) -> Iterator[Any]:
    """Yield the frames of OpenCV, as it opens a source by itself."""
    import cv2

    capture = cv2.VideoCapture(source)
    while (answer := capture.read())[0]:
        yield answer[1]
    capture.release()


def _openvino(xml: str) -> Callable[[Any], Any]:
    """Compile a graph for latency, and return a call that runs it on an RGB picture."""
    import numpy as np
    import openvino

    request = openvino.Core().compile_model(xml, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()

    def infer(picture: Any) -> Any:
        request.get_input_tensor().data[0] = np.asarray(picture)
        request.infer()
        return np.array(request.get_output_tensor().data[0])

    return infer


@dataclass
class Costs:
    """What was measured after the warm-up.

    Attributes:
        ages_ms: true ages.
        hidden_ms: by how much each true age exceeds the age that the way states.
        predictions: number of predictions.
        seconds: from the first to the last.
        cpu_seconds: of all threads, in that time.
        megabytes: resident memory at the end.
    """

    ages_ms: list[float]
    hidden_ms: list[float]
    predictions: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    megabytes: float = 0.0


def measure(task: Task) -> Costs:
    """Run a task."""
    if task.cpus:
        os.sched_setaffinity(0, task.cpus)
    sent = SendTimes(Path(task.times)) if task.times else None
    costs = Costs([], [])
    begun, until = 0, 0
    worked, opened = 0.0, 0
    for seen in WAYS[task.way](task):
        opened = opened or seen.at_ns
        if sent is not None and seen.at_ns - opened < task.warm_up * 1e9:
            continue
        if not begun:
            begun, worked = seen.at_ns, time.process_time()
            continue
        costs.predictions, until = costs.predictions + 1, seen.at_ns
        if sent is not None:
            note_age(costs, seen, sent)
        if until - begun > task.seconds * 1e9:
            break
    costs.cpu_seconds, costs.seconds = time.process_time() - worked, (until - begun) / 1e9
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    costs.megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return costs


def note_age(costs: Costs, seen: Seen, sent: SendTimes) -> None:
    """Compare the age of a frame with the time at which the camera sent it."""
    number = seen.number()
    if number is None:
        return
    costs.ages_ms.append((seen.at_ns - sent[number]) / 1e6)
    if seen.captured_ns is not None:
        costs.hidden_ms.append((seen.captured_ns - sent[number]) / 1e6)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    measured = measure(Task(**{**given, "cpus": tuple(given["cpus"])}))
    sys.stdout.write("\n" + json.dumps(measured.__dict__) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a library that does not end is not the subject
