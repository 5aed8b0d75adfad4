"""Preprocessing one camera frame: vitedge against timm's transform and what else could do it, on this machine.

    python benchmarks/preprocess.py [--rounds 40] [--threads 2]

Every contender turns the same H×W×3 uint8 BGR frame into a 224×224×3 uint8 RGB input: bicubic to 256, centre crop. They
take turns, in an order drawn anew for each round, so that a slow moment of the machine hits all of them alike. The
times are medians with the 10th and 90th percentile; "off" is the largest difference from timm's pixels.

The second table begins with the planes of a video decoder, 4:2:0. It compares the processor time from there to the
network's input: planes resized before they become colours, against FFmpeg's conversion to BGR and the resize of BGR.
Frames of many colours beyond black or white take the second way in either case.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Contender = Callable[[Image], Image]

FRAME_SIZES = ((1280, 720), (640, 480), (1920, 1080), (500, 333), (455, 256))
RESIZE, CROP = 256, 224
SATURATIONS = (0.5, 2.0)
"""How far colours of the frames in the second table are from grey; at 2 many lie beyond black or white."""
REFERENCE = "timm: PIL"


def vitedge_contender(out: Image) -> Contender:
    """The runtime's preprocessor, writing into an engine's buffer."""
    from vitedge.bundle.preprocessing import Preprocessing
    from vitedge.runtime.preprocess.preprocessor import Preprocessor

    preprocessor = Preprocessor(Preprocessing((CROP, CROP), (RESIZE, RESIZE)))
    return lambda frame: preprocessor(frame, out=out)


def timm_contender() -> Contender:
    """timm's transform before normalization, and the copies into and out of Pillow."""
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
    """Pillow told to compute only the window: the best that it can do, with other rounding at the window's edge."""
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


def opencv_contender() -> Contender:
    """OpenCV's bicubic, which does not antialias: other pixels, and for a network another picture."""
    import cv2

    from vitedge.bundle.preprocessing import Preprocessing

    preprocessing = Preprocessing((CROP, CROP), (RESIZE, RESIZE))

    def preprocess(frame: Image) -> Image:
        geometry = preprocessing.geometry(*frame.shape[:2])
        resized = cv2.resize(frame, geometry.resized[::-1], interpolation=cv2.INTER_CUBIC)
        top, left = geometry.offset
        return cv2.cvtColor(resized[top : top + CROP, left : left + CROP], cv2.COLOR_BGR2RGB)

    return preprocess


def openvino_contender(width: int, height: int, threads: int) -> Contender:
    """OpenVINO's RESIZE_BICUBIC_PILLOW as part of a graph, compiled for this frame size."""
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
    """All of them, for one frame size."""
    return {
        "vitedge": vitedge_contender(np.empty((CROP, CROP, 3), np.uint8)),
        REFERENCE: timm_contender(),
        "PIL, window only": pillow_window_contender(),
        "OpenVINO": openvino_contender(width, height, threads),
        "OpenCV cubic": opencv_contender(),
    }


def textured_frame(width: int, height: int) -> Image:
    """A frame with edges and noise, the same for all."""
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(column / 9) * np.cos(row / 7) + generator.normal(0, 20, (height, width))
    shifted = np.stack([waves, np.roll(waves, 5, axis=0), np.roll(waves, 9, axis=1)], axis=2)
    return np.clip(shifted, 0, 255).astype(np.uint8)


def measure(named: Mapping[str, Contender], frame: Image, rounds: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each contender in each round."""
    times: dict[str, list[float]] = {name: [] for name in named}
    order = list(named)
    for turn in range(rounds + 5):
        random.shuffle(order)
        for name in order:
            begun = time.perf_counter_ns()
            named[name](frame)
            if turn >= 5:
                times[name].append((time.perf_counter_ns() - begun) / 1e6)
    return {name: np.array(values) for name, values in times.items()}


def report(width: int, height: int, rounds: int, threads: int) -> list[str]:
    """The table's lines for one frame size."""
    frame = textured_frame(width, height)
    named = contenders(width, height, threads)
    reference = named[REFERENCE](frame).astype(int)
    times = measure(named, frame, rounds)
    lines = []
    for name, values in times.items():
        p10, p50, p90 = np.percentile(values, [10, 50, 90])
        ratio = np.percentile(times[REFERENCE], 50) / p50
        off = np.abs(named[name](frame).astype(int) - reference).max()
        lines.append(f"| {width}x{height} | {name} | {p50:.3f} | {p10:.3f} to {p90:.3f} | {ratio:.2f} | {off} |")
    return lines


PLANES, COLOURS_FIRST = "planes", "BGR first"


def planar_contenders(frame: Image) -> Mapping[str, Callable[[], Image]]:
    """Both ways from a decoder's planes to the network's input."""
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
    """The table's line for one frame size; the ratios are of the two times of a round."""
    textured = textured_frame(width, height).astype(np.float32)
    grey = textured.mean(axis=2, keepdims=True)
    named = planar_contenders((grey + saturation * (textured - grey)).clip(0, 255).astype(np.uint8))
    expected = named[COLOURS_FIRST]().astype(int)
    off = np.abs(named[PLANES]().astype(int) - expected).max(axis=2)
    times: dict[str, list[float]] = {name: [] for name in named}
    order = list(named)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            begun = time.process_time_ns()
            named[name]()
            times[name].append((time.process_time_ns() - begun) / 1e6)
    planes, colours = (np.array(times[name]) for name in (PLANES, COLOURS_FIRST))
    low, middle, high = np.percentile(planes / colours, [10, 50, 90])
    medians = f"{np.median(planes):.2f} | {np.median(colours):.2f}"
    return (
        f"| {width}x{height} | {saturation:g} | {medians} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
        f"{100 * np.mean(off > 1):.2f} % |"
    )


def main() -> None:
    """Measure and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each contender and size (40)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads for OpenVINO and OpenCV")
    arguments = parser.parse_args()
    import cv2

    cv2.setNumThreads(arguments.threads)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, numpy {np.__version__}, {arguments.rounds} rounds\n")
    print("| frame | contender | p50 ms | p10 to p90 ms | times timm's speed | off |\n|---|---|---|---|---|---|")
    for width, height in FRAME_SIZES:
        print("\n".join(report(width, height, arguments.rounds, arguments.threads)), flush=True)
    print("\n| planes | saturation | planes CPU ms | BGR first CPU ms | ratio (p10 to p90) | pixels over 1 off |")
    print("|---|---|---|---|---|---|")
    for width, height in FRAME_SIZES:
        for saturation in SATURATIONS:
            print(planar_report(width, height, saturation, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
