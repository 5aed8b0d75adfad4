"""What quantizing costs by the number of images: seconds and peak resident memory, each run in a process of its own.

The model has random weights and the images are noise with the spectrum of photos: neither changes what is computed. The
table goes between the page's markers.

    python benchmarks/calibration_memory.py [MODEL] [--images 100 300 1000] [--page docs/quantization.md]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.pages import write_between

from vitedge.calib.quantization.ptq import quantize
from vitedge.converters.onnx_export import export
from vitedge.converters.rewrites.apply import apply_rewrites
from vitedge.converters.sources.parse import TimmName
from vitedge.converters.sources.timm.models import load_timm
from vitedge.converters.verify import Frames, synthetic_frames
from vitedge.progress import Terminal
from vitedge.runtime.system.machine import machine_state, processor_name

MOST_GB, FLAT = 6.0, 1.1
"""The targets: in all, and of the most images to the fewest."""

FRAMES = 50
"""How many are made from noise."""


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        images: how many.
        seconds: of quantizing alone.
        peak_gb: largest resident set, from the checkpoint to the quantized graph, 10⁹ bytes.
    """

    images: int
    seconds: float
    peak_gb: float


def different_frames(input_size: tuple[int, int], images: int) -> Frames:
    """Make synthetic frames ``(N,H,W,3)``, a few rolled sideways: to make each from noise takes gigabytes."""
    few = synthetic_frames(input_size, min(images, FRAMES))
    return np.concatenate([np.roll(few, shift, axis=2) for shift in range(-(-images // len(few)))])[:images]


def quantize_once(model: str, images: int) -> float:
    """Quantize as a conversion does, without what is for one backend alone; seconds."""
    loaded = load_timm(
        TimmName(model),
        weights=None,
        random_weights=True,
        labels=None,
        preprocessing=None,
        num_classes=None,
        input_size=None,
        progress=Terminal(),
    )
    preprocessing = loaded.card.preprocessing
    frames = different_frames(preprocessing.input_size, images)
    graph = apply_rewrites(export(loaded.module, preprocessing.input_size), frames[:8], preprocessing).graph
    del loaded
    begun = time.monotonic()
    quantize(graph, frames, progress=Terminal())
    return time.monotonic() - begun


def cost(model: str, images: int) -> Cost:
    """Measure a run in a process of its own, which remembers nothing of earlier ones.

    Raises:
        RuntimeError: it failed; its output went to standard error.
    """
    command = [sys.executable, __file__, model, "--once", str(images)]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"VITEDGE_CACHE": cache}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"quantizing {model} on {images} images ended with status {status}")
    return Cost(images, float(answer.split()[-1]), usage.ru_maxrss * 1024 / 1e9)


def main() -> int:
    """Measure, print, and write where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="vit_base_patch16_224")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once is not None:
        print(quantize_once(arguments.model, arguments.once))
        return 0
    costs = [cost(arguments.model, images) for images in arguments.images]
    lines = [f"| {each.images} | {each.seconds:.0f} | {each.peak_gb:.2f} |" for each in costs]
    heading = f"{arguments.model} with random weights, {processor_name()}, {machine_state().cpus} CPUs."
    text = "\n".join([heading, "", "| images | seconds | peak memory, GB |", "|---|---|---|", *lines])
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "memory", text)
    peaks = [each.peak_gb for each in costs]
    return 0 if max(peaks) <= MOST_GB and max(peaks) <= FLAT * peaks[0] else 1


if __name__ == "__main__":
    sys.exit(main())
