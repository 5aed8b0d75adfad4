"""Preprocessing one camera frame: vitedge against timm's transform and what else could do it, on this machine.

    python benchmarks/preprocess.py [--rounds 40] [--threads 1] [--simd PYTHON]

Every contender turns the same H×W×3 uint8 BGR frame into a 224×224×3 uint8 RGB input: bicubic to 256, centre crop;
OpenCV also with its area filter. The process is pinned to as many CPUs as threads. The contenders take turns, in an
order drawn anew for each round, so that a slow moment of the machine hits all of them alike. "over timm's" is the
ratio of the times of one round; ranges are the 10th to the 90th percentile. "off" is the largest difference from timm's
pixels.

Pillow-SIMD replaces Pillow, so it needs a Python of its own, and runs in another process on the same CPUs:

    python -m venv simd && CC="cc -mavx2" simd/bin/pip install numpy pillow-simd

The second table begins with the frame of a video decoder, 4:2:0. It compares the processor time from there to the
network's input: FFmpeg's resize of the part that the network sees, against FFmpeg's conversion of the whole frame to
BGR and the resize of BGR. Frames that shrink by less than 1.5 take the second way in either case. Two targets are of
frames of 1920x1080: at most 0.5 of the second way, and at most 2.0 ms for vitedge in the first table.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
Contender: TypeAlias = Callable[[Image], Image]
Timed: TypeAlias = Callable[[], float]
"""Runs a contender once, and returns its milliseconds."""

FRAME_SIZES = ((1280, 720), (640, 480), (1920, 1080), (500, 333), (455, 256))
RESIZE, CROP = 256, 224
SATURATIONS = (0.5, 1.0, 2.0)
"""How far colours of the frames in the second table are from grey; at 2 many lie beyond black or white."""
REFERENCE = "timm: PIL"
SIMD = "Pillow-SIMD"
WARM_UP = 5


def vitedge_contender() -> Contender:
    """Prepare the runtime's preprocessor, writing into an engine's buffer."""
    from vitedge.bundle.preprocessing import Preprocessing
    from vitedge.runtime.preprocess.preprocessor import Preprocessor

    preprocessor, out = Preprocessor(Preprocessing((CROP, CROP), (RESIZE, RESIZE))), np.empty((CROP, CROP, 3), np.uint8)
    return lambda frame: preprocessor(frame, out=out)


def timm_contender() -> Contender:
    """Prepare timm's transform before normalization, and the copies into and out of Pillow."""
    import cv2
    from PIL import Image as Pillow
    from timm.data.transforms_factory import transforms_imagenet_eval

    transform = transforms_imagenet_eval(CROP, crop_pct=CROP / RESIZE, interpolation="bicubic")
    resize_and_crop = transform.transforms[:2]

    def preprocess(frame: Image) -> Image:
        image = Pillow.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        for step in resize_and_crop:
            image = step(image)
        return np.asarray(image)

    return preprocess


def pillow_window_contender() -> Contender:
    """Prepare Pillow for the window only: the best that it can do, with other rounding at the window's edge."""
    import cv2
    from PIL import Image as Pillow

    def preprocess(frame: Image) -> Image:
        height, width = frame.shape[:2]
        side = min(height, width) * CROP / RESIZE
        left, top = (width - side) / 2, (height - side) / 2
        image = Pillow.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((CROP, CROP), Pillow.Resampling.BICUBIC, box=box))

    return preprocess


def pillow_contender() -> Contender:
    """Prepare timm's transform with Pillow and NumPy alone, for the Python of ``--simd``."""
    from PIL import Image as Pillow

    def preprocess(frame: Image) -> Image:
        height, width = frame.shape[:2]
        scale = RESIZE / min(height, width)
        image = Pillow.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))
        resized = image.resize((int(width * scale), int(height * scale)), Pillow.Resampling.BICUBIC)
        left, top = round((resized.width - CROP) / 2), round((resized.height - CROP) / 2)
        return np.asarray(resized.crop((left, top, left + CROP, top + CROP)))

    return preprocess


def torchvision_contender(threads: int) -> Contender:
    """Prepare torchvision's transforms v2 of a uint8 tensor, which antialias and stay in 8 bits."""
    import torch
    from torchvision.transforms import InterpolationMode, v2

    torch.set_num_threads(threads)
    transform = v2.Compose([v2.Resize(RESIZE, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(CROP)])

    def preprocess(frame: Image) -> Image:
        pixels: Image = transform(torch.from_numpy(frame).permute(2, 0, 1)).permute(1, 2, 0).flip(2).numpy()
        return pixels

    return preprocess


def opencv_contender(interpolation: str) -> Contender:
    """Prepare an OpenCV filter, which gives other pixels than Pillow; the cubic one does not antialias."""
    import cv2

    from vitedge.bundle.preprocessing import Preprocessing

    preprocessing, flag = Preprocessing((CROP, CROP), (RESIZE, RESIZE)), getattr(cv2, interpolation)

    def preprocess(frame: Image) -> Image:
        geometry = preprocessing.geometry(*frame.shape[:2])
        resized = cv2.resize(frame, geometry.resized[::-1], interpolation=flag)
        top, left = geometry.offset
        return cv2.cvtColor(resized[top : top + CROP, left : left + CROP], cv2.COLOR_BGR2RGB)

    return preprocess


def openvino_contender(width: int, height: int, threads: int) -> Contender:
    """Compile OpenVINO's RESIZE_BICUBIC_PILLOW as part of a graph, for this frame size."""
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.preprocess import ColorFormat, PrePostProcessor, ResizeAlgorithm

    from vitedge.bundle.preprocessing import Preprocessing

    geometry = Preprocessing((CROP, CROP), (RESIZE, RESIZE)).geometry(height, width)
    (top, left), (resized_height, resized_width) = geometry.offset, geometry.resized
    parameter = ops.parameter([1, resized_height, resized_width, 3], np.uint8)
    start, stop = [0, top, left, 0], [1, top + CROP, left + CROP, 3]
    window = ops.slice(parameter, np.array(start), np.array(stop), np.array([1, 1, 1, 1]))
    graph = PrePostProcessor(ov.Model([window], [parameter]))
    graph.input().tensor().set_shape([1, height, width, 3]).set_layout(ov.Layout("NHWC")).set_element_type(ov.Type.u8)
    graph.input().tensor().set_color_format(ColorFormat.BGR)
    graph.input().preprocess().resize(ResizeAlgorithm.RESIZE_BICUBIC_PILLOW, resized_height, resized_width)
    graph.input().preprocess().convert_color(ColorFormat.RGB)
    graph.input().model().set_layout(ov.Layout("NHWC"))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(graph.build(), "CPU", settings).create_infer_request()
    return lambda frame: request.infer([frame[None]], share_inputs=True, share_outputs=True)[0][0]


def contenders(width: int, height: int, threads: int) -> Mapping[str, Contender]:
    """Prepare all contenders that run in this process, for one frame size."""
    return {
        "vitedge": vitedge_contender(),
        REFERENCE: timm_contender(),
        "PIL, window only": pillow_window_contender(),
        "torchvision v2": torchvision_contender(threads),
        "OpenVINO": openvino_contender(width, height, threads),
        "OpenCV area": opencv_contender("INTER_AREA"),
        "OpenCV cubic": opencv_contender("INTER_CUBIC"),
    }


def textured_frame(width: int, height: int) -> Image:
    """Draw a frame with edges and noise, the same for all."""
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(column / 9) * np.cos(row / 7) + generator.normal(0, 20, (height, width))
    shifted = np.stack([waves, np.roll(waves, 5, axis=0), np.roll(waves, 9, axis=1)], axis=2)
    return np.clip(shifted, 0, 255).astype(np.uint8)


def timed(contender: Contender, frame: Image) -> Timed:
    """Return a call that times a contender of this process."""

    def run() -> float:
        begun = time.perf_counter_ns()
        contender(frame)
        return (time.perf_counter_ns() - begun) / 1e6

    return run


def answer(width: int, height: int) -> None:
    """Run Pillow for the process that started this one: write its pixels, then its milliseconds for each line read."""
    frame, contender = textured_frame(width, height), pillow_contender()
    print(contender(frame).tobytes().hex(), flush=True)
    run = timed(contender, frame)
    for _ in sys.stdin:
        print(run(), flush=True)


@contextmanager
def child(python: Path, width: int, height: int) -> Iterator[tuple[Timed, Image]]:
    """Start another Python's Pillow; yield a call that times it, and its pixels."""
    command = [str(python), __file__, "--answer", str(width), str(height)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        pixels = np.frombuffer(bytes.fromhex(stdout.readline()), np.uint8).reshape(CROP, CROP, 3)

        def run() -> float:
            print(file=stdin, flush=True)
            return float(stdout.readline())

        yield run, pixels
        stdin.close()


def measure(named: Mapping[str, Timed], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Measure the milliseconds of each contender in each round."""
    times: dict[str, list[float]] = {name: [] for name in named}
    order = list(named)
    for _ in range(rounds + WARM_UP):
        random.shuffle(order)
        for name in order:
            times[name].append(named[name]())
    return {name: np.array(values[WARM_UP:]) for name, values in times.items()}


def spread(values: NDArray[np.float64], digits: int) -> str:
    """Format the median, and the 10th to the 90th percentile."""
    low, middle, high = (f"{each:.{digits}f}" for each in np.percentile(values, [10, 50, 90]))
    return f"{middle} ({low}-{high})"


def report(width: int, height: int, rounds: int, threads: int, simd: Path | None) -> list[str]:
    """Format the table's lines for one frame size."""
    frame = textured_frame(width, height)
    named = contenders(width, height, threads)
    pixels = {name: contender(frame).astype(int) for name, contender in named.items()}
    runs = {name: timed(contender, frame) for name, contender in named.items()}
    with ExitStack() as stack:
        if simd is not None:
            runs[SIMD], pixels[SIMD] = stack.enter_context(child(simd, width, height))
        times = measure(runs, rounds)
    return [
        f"| {width}x{height} | {name} | {spread(values, 2)} | {spread(values / times[REFERENCE], 3)} | "
        f"{np.abs(pixels[name] - pixels[REFERENCE]).max()} |"
        for name, values in times.items()
    ]


PLANES, COLOURS_FIRST = "planes", "BGR first"


def planar_contenders(frame: Image) -> Mapping[str, Callable[[], Image]]:
    """Prepare both ways from a decoder's planes to the network's input."""
    import av

    from vitedge.bundle.preprocessing import Preprocessing
    from vitedge.runtime.preprocess.preprocessor import Preprocessor
    from vitedge.runtime.sources.video.pictures import Converter, planes_of

    decoded = av.VideoFrame.from_ndarray(frame, format="bgr24").reformat(format="yuv420p")
    planes = planes_of(decoded, Converter())
    assert planes is not None
    preprocessor, out = Preprocessor(Preprocessing((CROP, CROP), (RESIZE, RESIZE))), np.empty((CROP, CROP, 3), np.uint8)
    return {
        PLANES: lambda: preprocessor(planes, out=out),
        COLOURS_FIRST: lambda: preprocessor(planes.bgr(), out=out),
    }


def planar_report(width: int, height: int, saturation: float, rounds: int) -> str:
    """Format the table's line for one frame size."""
    textured = textured_frame(width, height).astype(np.float32)
    grey = textured.mean(axis=2, keepdims=True)
    named = planar_contenders((grey + saturation * (textured - grey)).clip(0, 255).astype(np.uint8))
    expected = named[COLOURS_FIRST]().astype(int)
    off = np.abs(named[PLANES]().astype(int) - expected).max(axis=2)
    times = measure({name: processor_timed(call) for name, call in named.items()}, rounds)
    return (
        f"| {width}x{height} | {saturation:g} | {spread(times[PLANES], 2)} | {spread(times[COLOURS_FIRST], 2)} | "
        f"{spread(times[PLANES] / times[COLOURS_FIRST], 2)} | {100 * np.mean(off > 1):.2f} % |"
    )


def processor_timed(call: Callable[[], Image]) -> Timed:
    """Return a call that measures processor time, in all threads."""

    def run() -> float:
        begun = time.process_time_ns()
        call()
        return (time.process_time_ns() - begun) / 1e6

    return run


def tables(rounds: int, threads: int, simd: Path | None) -> Iterator[str]:
    """Yield both tables, line by line."""
    from common.taken import load_now

    from vitedge.runtime.system.machine import processor_name

    yield (
        f"{processor_name()}, {threads} of {os.cpu_count()} CPUs, load {load_now()}, numpy {np.__version__}, "
        f"{rounds} rounds"
    )
    yield ""
    yield "| frame | contender | ms | over timm's | off |"
    yield "|---|---|---|---|---|"
    for width, height in FRAME_SIZES:
        sys.stderr.write(f"{width}x{height}\n")
        yield from report(width, height, rounds, threads, simd)
    yield ""
    yield "| planes | saturation | planes, CPU ms | BGR first, CPU ms | ratio | pixels over 1 off |"
    yield "|---|---|---|---|---|---|"
    for width, height in FRAME_SIZES:
        for saturation in SATURATIONS:
            yield planar_report(width, height, saturation, rounds)


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each contender and size (40)")
    parser.add_argument("--threads", type=int, default=1, help="CPUs, and threads of OpenVINO, OpenCV and PyTorch (1)")
    parser.add_argument("--simd", type=Path, metavar="PYTHON", help="a Python that has NumPy and Pillow-SIMD")
    parser.add_argument("--answer", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer(*arguments.answer)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    import cv2

    cv2.setNumThreads(arguments.threads)
    print("\n".join(tables(arguments.rounds, arguments.threads, arguments.simd)))


if __name__ == "__main__":
    main()
