"""The demo's clip: held-out digits on cards that move before the camera, one after the other, with their truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge.demo.digits import LABELS, Digits
from vitedge.demo.scenes import MATERIALS, Scene, jittered, render
from vitedge.progress import Progress
from vitedge.runtime.outputs.video_writer import VideoWriter
from vitedge.runtime.sources.open import open_source

HEIGHT = 480
FPS = 24.0
FRAMES_PER_DIGIT = 12
DIGITS_PER_CLASS = 3
SEED = 7


def frames_in(digits: Digits) -> int:
    """Return the number of frames that ``clip_frames`` yields for these digits."""
    return len(digits) * FRAMES_PER_DIGIT


def choose(held_out: Digits) -> Digits:
    """Choose the digits of the clip: equally many of each class, drawn and shuffled by ``SEED``, not picked by hand."""
    random = np.random.default_rng(SEED)
    drawn = [
        random.choice(np.flatnonzero(held_out.labels == label), DIGITS_PER_CLASS, replace=False)
        for label in range(len(LABELS))
    ]
    return held_out.take(random.permutation(np.concatenate(drawn)))


def clip_frames(digits: Digits) -> Iterator[NDArray[np.uint8]]:
    """Render the clip, ``480×640×3`` uint8 BGR; the same digits give the same frames."""
    random = np.random.default_rng(SEED)
    for scan in digits.scans:
        for scene in _shot(random):
            yield render(scan, scene, height=HEIGHT, random=random)


def write_clip(path: Path, digits: Digits, progress: Progress) -> tuple[str, ...]:
    """Write the clip as a video.

    Returns:
        The truth of each frame, in order.

    Raises:
        OutputError: it cannot be written.
    """
    frames = progress.track(clip_frames(digits), total=frames_in(digits), unit="frames")
    write_video(path, frames)
    return tuple(LABELS[label] for label in digits.labels for _ in range(FRAMES_PER_DIGIT))


def write_video(path: Path, pictures: Iterable[NDArray[np.uint8]]) -> None:
    """Write ``H×W×3`` uint8 BGR pictures of one size, with even sides, as a video.

    Raises:
        OutputError: it cannot be written.
    """
    with ExitStack() as stack:
        writer: VideoWriter | None = None
        for number, picture in enumerate(pictures):
            if writer is None:
                writer = VideoWriter(path, height=picture.shape[0], width=picture.shape[1], fps=FPS)
                stack.callback(writer.close)
            writer.write(picture, number / FPS)


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Read the frames of a clip, ``480×640×3`` uint8 BGR.

    Raises:
        FrameSourceError: it cannot be read.
    """
    with open_source(path) as source:
        for frame in source:
            yield frame.image


def _shot(random: np.random.Generator) -> Iterator[Scene]:
    """Make the scenes of one digit: the card moves from one place to another in an unsteady hand."""
    material = jittered(MATERIALS[int(random.integers(len(MATERIALS)))], random, amount=0.03)
    card = (random.uniform(1.45, 1.7), random.uniform(1.5, 1.75))
    begin, end = (_held(random) for _ in range(2))
    phases = random.uniform(0, 2 * math.pi, size=3)
    for number in range(FRAMES_PER_DIGIT):
        passed = number / (FRAMES_PER_DIGIT - 1)
        eased = passed * passed * (3.0 - 2.0 * passed)
        tremor = 0.004 * np.sin(2.0 * math.pi * passed + phases)
        scene = _between(begin, end, eased)
        yield replace(
            scene,
            material=material,
            card=card,
            center=(scene.center[0] + float(tremor[0]), scene.center[1] + float(tremor[1])),
            angle=scene.angle + float(tremor[2]),
        )


def _held(random: np.random.Generator) -> Scene:
    return Scene(
        center=(random.uniform(-0.09, 0.09), random.uniform(-0.06, 0.06)),
        size=random.uniform(0.42, 0.58),
        angle=random.uniform(-0.16, 0.16),
        light=(random.uniform(-0.1, 0.1), random.uniform(-0.1, 0.1)),
        exposure=random.uniform(0.9, 1.05),
        blur=random.uniform(0.001, 0.004),
    )


def _between(begin: Scene, end: Scene, share: float) -> Scene:
    def mixed(one: float, other: float) -> float:
        return one + share * (other - one)

    return replace(
        begin,
        center=(mixed(begin.center[0], end.center[0]), mixed(begin.center[1], end.center[1])),
        size=mixed(begin.size, end.size),
        angle=mixed(begin.angle, end.angle),
        light=(mixed(begin.light[0], end.light[0]), mixed(begin.light[1], end.light[1])),
        exposure=mixed(begin.exposure, end.exposure),
        blur=mixed(begin.blur, end.blur),
    )
