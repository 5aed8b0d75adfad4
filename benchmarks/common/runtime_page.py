"""The page of ``benchmarks/runtime.py``: targets, and tables of ages, of speed and of costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from common.stream_child import Costs

NAMES = {
    "vitedge": "vitedge",
    "loop": "20-line loop (OpenCV, Pillow, OpenVINO)",
    "resize": "`cv2.resize`, OpenVINO",
    "ultralytics": "Ultralytics, yolo11s-cls",
    "optimum": "optimum-intel pipeline, ViT-Tiny",
}


@dataclass(frozen=True)
class TargetResult:
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


Rounds = Mapping[str, Sequence["Costs"]]


@dataclass(frozen=True)
class Measured:
    """What the benchmark measured.

    Attributes:
        spare: a camera, by way, with cores to spare.
        b_frames: the same camera with B-frames.
        one_core: a faster camera, on one core.
        file: a file, as fast as possible.
        stops: seconds that ``stop`` took while the camera hung.
        own_ms: core-ms of a prediction beside preprocessing and inference, by round.
        cameras: four cameras, by round.
        planes: processor time from planes over the time by way of BGR, by round.
        missing: why a way was not measured, by way.
    """

    spare: Rounds
    b_frames: Rounds
    one_core: Rounds
    file: Rounds
    stops: Sequence[float]
    own_ms: Sequence[float]
    cameras: Sequence[CameraRound]
    planes: Sequence[float]
    missing: Mapping[str, str]

    def targets(self) -> list[TargetResult]:
        """Return the targets, met and missed."""
        return [
            *ages(self.spare["vitedge"]),
            planes_target(self.planes),
            cameras_target(self.cameras),
            stop_target(self.stops),
            own_target(self.own_ms),
        ]


def page_text(measured: Measured, where: str) -> str:
    """Return the text of the page, which begins with where it was measured."""
    parts = (
        where,
        targets_table(measured.targets()),
        cameras_bound(measured.cameras),
        "Cores to spare, 30 frames/s:",
        ages_table(measured.spare),
        "The same camera with B-frames, which it sends in another order than it takes them:",
        ages_table(measured.b_frames),
        "One core, 60 frames/s; the camera has a core of its own:",
        ages_table(measured.one_core),
        "A file, as fast as possible:",
        speed_table(measured.file),
        *(f"{NAMES[way]}: not measured, {why}." for way, why in measured.missing.items()),
    )
    return "\n\n".join(parts)


def ages(rounds: Sequence[Costs]) -> list[TargetResult]:
    """Return the targets for ages, each by the median of the rounds."""
    p50 = statistics.median(percentile(each.ages_ms, 50) for each in rounds)
    p99 = statistics.median(percentile(each.ages_ms, 99) for each in rounds)
    hidden = statistics.median(percentile([abs(one) for one in each.hidden_ms], 99) for each in rounds)
    return [
        TargetResult("difference of `age_ms` and true age, p99", "≤ 15 ms", f"{hidden:.1f} ms", hidden <= 15),
        TargetResult("true age at 30 frames/s without B-frames, p50", "≤ 45 ms", f"{p50:.1f} ms", p50 <= 45),
        TargetResult("true age at 30 frames/s without B-frames, p99", "≤ 60 ms", f"{p99:.1f} ms", p99 <= 60),
    ]


def planes_target(ratios: Sequence[float]) -> TargetResult:
    """Return the target for pictures of 1920x1080."""
    ratio = statistics.median(ratios)
    name = "CPU from planes of 1920x1080 to the input, over BGR conversion and preprocessing"
    return TargetResult(name, "≤ 0.5 x", f"{over_rounds(ratios, 2)} x", ratio <= 0.5)


def cameras_target(rounds: Sequence[CameraRound]) -> TargetResult:
    """Return the target for four cameras."""
    ratios = [each.cameras / each.benchmark_app for each in rounds]
    ratio = statistics.median(ratios)
    name = "four cameras, saturated, over `benchmark_app -hint throughput`"
    return TargetResult(name, "≥ 0.95 x", f"{over_rounds(ratios, 2)} x", ratio >= 0.95)


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


def stop_target(seconds: Sequence[float]) -> TargetResult:
    """Return the target for ``stop``."""
    worst = max(seconds)
    return TargetResult(
        f"`stop` while the camera hangs, longest of {len(seconds)}", "≤ 0.3 s", f"{worst:.3f} s", worst <= 0.3
    )


def own_target(milliseconds: Sequence[float]) -> TargetResult:
    """Return the target for vitedge's own Python."""
    return TargetResult(
        "CPU of a prediction beside preprocessing and inference",
        "≤ 0.2 ms",
        f"{over_rounds(milliseconds, 3)} ms",
        statistics.median(milliseconds) <= 0.2,
    )


def targets_table(targets: Sequence[TargetResult]) -> str:
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


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile; NaN of no values."""
    return float(np.percentile(values, percent)) if values else float("nan")


def over_rounds(values: Iterable[float], digits: int = 0) -> str:
    """Return the median of a figure over the rounds, and its range."""
    found = list(values)
    return f"{statistics.median(found):.{digits}f} ({min(found):.{digits}f}-{max(found):.{digits}f})"
