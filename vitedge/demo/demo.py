"""The demo: convert a checkpoint of the package to three bundles, stream a clip through them, and measure.

held-out digits ─▶ clip, photos ──────────────────────┐
training digits ─▶ calibration photos ─▶ three bundles ┴▶ accuracy, stream, latency ─▶ annotated video, page, table
timm's DeiT-Tiny with random weights ─▶ three bundles ──▶ latency ───────────────────┘
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision, TargetName, target_named
from vitedge.converters.convert import convert
from vitedge.converters.publish import check_output, put_in_place, staged
from vitedge.demo.annotate import write_annotated
from vitedge.demo.clip import FRAMES_PER_DIGIT, choose, read_frames, write_clip
from vitedge.demo.digits import Split, load_split
from vitedge.demo.larger import LargerResult, measure_larger
from vitedge.demo.measure import (
    Accuracy,
    ClassifyLatency,
    Streamed,
    accuracy_of,
    latencies_of,
    precision_in_use,
    streamed,
)
from vitedge.demo.page import small_video, to_html
from vitedge.demo.photos import sample, write_photos
from vitedge.progress import Progress, reporting
from vitedge.records import encode
from vitedge.report.next_steps import activate_command, watch_command
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.runtime.sources.images.reading import list_images
from vitedge.safety import escape
from vitedge.safety.escape import shell

CHECKPOINT = Path(__file__).with_name("digits_vit")
TARGET: TargetName = "cpu"
PRECISIONS = target_named(TARGET).precisions

CLIP = "clip.mp4"
ANNOTATED = "annotated.mp4"
HELD_OUT = "held-out"
CALIBRATION = "calibration"
RESULT = "result.json"
PAGE = "index.html"

CALIBRATION_IMAGES = 300
CALIBRATION_SEED = 2
HELD_OUT_SEED = 1


@dataclass(frozen=True)
class BundleResult:
    """The measurements of one bundle.

    Attributes:
        precision: precision of the bundle.
        runs_as: precision of the compiled engine on this machine.
        accuracy: accuracy on the held-out photos.
        clip_top1: percent of the frames of the clip with the right prediction.
        clip_fps: frames per second of the clip, decoding included.
        latency: latency of ``classify``.
        size_bytes: size of all files of the bundle.
    """

    precision: Precision
    runs_as: str
    accuracy: Accuracy
    clip_top1: float
    clip_fps: float
    latency: ClassifyLatency
    size_bytes: int


@dataclass(frozen=True)
class Result:
    """The result of the demo.

    Attributes:
        frames: number of frames of the clip.
        digits: number of digits in the clip.
        device: name of the processor.
        rows: fp32, fp16, int8.
        larger: latency of a larger model.
    """

    frames: int
    digits: int
    device: str
    rows: tuple[BundleResult, ...]
    larger: LargerResult


def run_demo(folder: Path, progress: Progress, *, overwrite: bool = False) -> Result:
    """Run the whole demo into a new folder, which appears when all is done.

    Args:
        folder: its path.
        progress: receives the steps.
        overwrite: replace the folder of an earlier demo; it must hold nothing else.

    Raises:
        UsageError: the folder exists or cannot be made.
        VitedgeError: a step failed; nothing is left.
    """
    with reporting(progress), staged(folder, overwrite=overwrite) as partial:
        result = _run(partial, progress)
        _write_page(partial, result, next_steps(folder))
        (partial / RESULT).write_text(escape.json({"version": 1, **encode(result)}, indent=1) + "\n", encoding="utf-8")
        check_output(folder, overwrite=overwrite, names={each.name for each in partial.iterdir()})
        put_in_place(partial, folder)
    return result


def _run(folder: Path, progress: Progress) -> Result:
    split = load_split()
    progress.step("rendering a camera clip of handwritten digits that training never saw")
    digits = choose(split.held_out)
    truth = write_clip(folder / CLIP, digits, progress)
    write_all_photos(folder, split, progress)
    frames = _every_digit_once(folder / CLIP)
    bundles = [_converted(folder, precision, progress) for precision in PRECISIONS]
    with ExitStack() as stack:
        classifiers = [stack.enter_context(load(bundle)) for bundle in bundles]
        progress.step("accuracy on the held-out photos")
        accuracies = accuracy_of(classifiers, folder / HELD_OUT, progress)
        streams = _streams(classifiers, folder / CLIP, truth, progress)
        progress.step("latency, the three bundles in turns")
        latencies = latencies_of(classifiers, frames, progress)
        measured = zip(PRECISIONS, bundles, classifiers, accuracies, streams, latencies, strict=True)
        rows = [_bundle_result(*each) for each in measured]
        device = classifiers[0].info.device
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        larger = measure_larger(Path(scratch), TARGET, list_images(folder / CALIBRATION), frames, progress)
    progress.step("drawing the annotated video")
    caption = f"digits ViT, {PRECISIONS[-1]}, {device}"
    write_annotated(folder / ANNOTATED, folder / CLIP, streams[-1], truth, caption, progress)
    return Result(frames=len(truth), digits=len(digits), device=device, rows=tuple(rows), larger=larger)


def write_all_photos(folder: Path, split: Split, progress: Progress) -> None:
    """Write photos of training digits for calibration, and photos of all held-out digits to measure accuracy on."""
    progress.step("rendering photos: for calibration from training digits, for accuracy from held-out ones")
    calibration = sample(split.training, CALIBRATION_IMAGES, seed=CALIBRATION_SEED)
    write_photos(folder / CALIBRATION, calibration, seed=CALIBRATION_SEED, progress=progress)
    write_photos(folder / HELD_OUT, split.held_out, seed=HELD_OUT_SEED, progress=progress)


def _converted(folder: Path, precision: Precision, progress: Progress) -> Bundle:
    progress.step(f"converting the checkpoint to {precision}")
    return convert(
        CHECKPOINT,
        target=TARGET,
        precision=precision,
        calib=folder / CALIBRATION,
        output=folder / f"{precision}.bundle",
        progress=_Substeps(progress, folder),
    )


class _Substeps:
    """Reports the steps of a conversion indented, without the path of the temporary folder."""

    def __init__(self, progress: Progress, folder: Path) -> None:
        self._folder = f"{folder}/"
        self.step = lambda text: progress.step(f"  {text.replace(self._folder, '')}")
        self.track = progress.track


def _write_page(folder: Path, result: Result, steps: Sequence[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        video = small_video(folder / ANNOTATED, Path(scratch) / ANNOTATED)
    (folder / PAGE).write_text(to_html(result, video, steps), encoding="utf-8")


def next_steps(folder: Path) -> tuple[tuple[str, str], ...]:
    """Tell what to do with the folder of a demo, and the commands that do it, which run as they are."""
    int8, fp32 = folder / "int8.bundle", folder / "fp32.bundle"
    held_out, calibration = folder / HELD_OUT, folder / CALIBRATION
    activate = activate_command()
    return (
        *((("put vitedge on the path of your shell:", activate),) if activate else ()),
        (
            "write a digit with a thick pen and hold it before a camera; without one, the clip:",
            watch_command(int8, folder / CLIP),
        ),
        (
            "compare the bundles, image by image:",
            f"vitedge eval {shell(str(int8))} --data {shell(str(held_out))} --against {shell(str(fp32))}",
        ),
        (
            "convert another model, here with random weights; your own checkpoint takes its place:",
            f"vitedge convert timm:vit_tiny_patch16_224 --random-weights --target cpu --precision int8 "
            f"--calib {shell(str(calibration))}",
        ),
    )


def _streams(classifiers: Sequence[Classifier], clip: Path, truth: Sequence[str], progress: Progress) -> list[Streamed]:
    streams = []
    for precision, classifier in zip(PRECISIONS, classifiers, strict=True):
        progress.step(f"streaming the clip through the {precision} bundle")
        streams.append(streamed(classifier, clip, truth, progress))
    return streams


def _every_digit_once(clip: Path) -> list[NDArray[np.uint8]]:
    """Return the first frame of each digit."""
    return list(itertools.islice(read_frames(clip), 0, None, FRAMES_PER_DIGIT))


def _bundle_result(
    precision: Precision,
    bundle: Bundle,
    classifier: Classifier,
    accuracy: Accuracy,
    stream: Streamed,
    latency: ClassifyLatency,
) -> BundleResult:
    return BundleResult(
        precision=precision,
        runs_as=precision_in_use(classifier),
        accuracy=accuracy,
        clip_top1=stream.top1,
        clip_fps=stream.fps,
        latency=latency,
        size_bytes=bundle.size_bytes,
    )
