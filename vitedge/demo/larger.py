"""A larger model, whose inference takes longer than preprocessing. Its weights are random: only latency is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.targets import Precision, TargetName, target_named
from vitedge.converters.convert import convert
from vitedge.demo.measure import ClassifyLatency, latencies_of, precision_in_use
from vitedge.progress import Item, Progress
from vitedge.runtime.load import load

MODEL = "deit_tiny_patch16_224"
CALIBRATION_IMAGES = 8
"""Few are enough, because ranges decide accuracy, not latency."""


@dataclass(frozen=True)
class LargerRow:
    """The latency of one bundle with random weights.

    Attributes:
        precision: precision of the bundle.
        runs_as: precision of the compiled engine on this machine.
        latency: latency of ``classify``.
        size_bytes: size of all files of the bundle.
    """

    precision: Precision
    runs_as: str
    latency: ClassifyLatency
    size_bytes: int


@dataclass(frozen=True)
class LargerResult:
    """The latency of the larger model.

    Attributes:
        model: its name in timm.
        rows: fp32, fp16, int8.
    """

    model: str
    rows: tuple[LargerRow, ...]

    @property
    def speedup(self) -> float:
        """Return the ratio of fp32's p50 to int8's."""
        return self.rows[0].latency.p50_ms / self.rows[-1].latency.p50_ms

    @property
    def int8_over_fp16(self) -> float:
        """Return the inference time of int8 over the time of fp16, by p50."""
        infer = {row.precision: row.latency.infer_p50_ms for row in self.rows}
        return infer["int8"] / infer["fp16"]


def measure_larger(
    folder: Path, target: TargetName, photos: Sequence[Path], frames: Sequence[NDArray[np.uint8]], progress: Progress
) -> LargerResult:
    """Convert the model with random weights to each precision, and measure latency in turns.

    Args:
        folder: takes the bundles.
        target: of the bundles.
        photos: images to calibrate on.
        frames: ``H×W×3`` uint8 BGR, to classify.
        progress: receives the steps.

    Raises:
        VitedgeError: a step failed.
    """
    chosen = photos[:: max(1, len(photos) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
    images = folder / "calibration.txt"
    images.write_text("".join(f"{path.absolute()}\n" for path in chosen), encoding="utf-8", errors="surrogateescape")
    bundles = []
    precisions = target_named(target).precisions
    for precision in precisions:
        progress.step(f"converting {MODEL} with random weights to {precision}")
        bundles.append(
            convert(
                f"timm:{MODEL}",
                target=target,
                precision=precision,
                random_weights=True,
                calib=images,
                output=folder / f"{precision}.bundle",
                progress=_Counts(progress),
            )
        )
    with ExitStack() as stack:
        classifiers = [stack.enter_context(load(bundle)) for bundle in bundles]
        progress.step(f"latency of {MODEL}, the three bundles in turns")
        latencies = latencies_of(classifiers, frames, progress)
        runs_as = [precision_in_use(each) for each in classifiers]
    rows = zip(precisions, runs_as, latencies, (each.size_bytes for each in bundles), strict=True)
    return LargerResult(MODEL, tuple(LargerRow(*row) for row in rows))


class _Counts:
    """Reports what a conversion counts, and leaves out its steps, which say nothing of random weights."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, text: str) -> None:
        """Leave the step out."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Report the count."""
        return self._progress.track(items, total=total, unit=unit)
