"""The measurements of the demo: accuracy on held-out photos, a streamed clip, and latency in turns."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge.demo.digits import LABELS
from vitedge.metrics import parity
from vitedge.prediction import Prediction, StageTimes
from vitedge.progress import Progress
from vitedge.runtime.bench.timing import Samples, TimedCall, concatenate, time_turn, warm_up
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.sources.images.reading import list_images, read_image

WARM_UP_SECONDS = 2.5
ROUNDS = 12
TURN_SECONDS = 0.2
SETTLING_CALLS = 3


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on the held-out photos.

    Attributes:
        top1: percent of the photos with the right prediction.
        agreement: percent of the photos with the same prediction as the first classifier.
        images: number of photos.
    """

    top1: float
    agreement: float
    images: int


@dataclass(frozen=True)
class ClassifyLatency:
    """Latency of repeated calls of ``classify`` on frames of the clip.

    Attributes:
        p50_ms: median.
        p99_ms: 99th percentile.
        infer_p50_ms: median time in the network; nearly all of the rest is preprocessing.
        fps: calls per second.
        calls: number of counted calls.
    """

    p50_ms: float
    p99_ms: float
    infer_p50_ms: float
    fps: float
    calls: int


@dataclass(frozen=True)
class Streamed:
    """A clip after every frame was classified.

    Attributes:
        predictions: one a frame, in order, without the images.
        top1: percent of the frames with the right prediction.
        fps: frames per second from the first prediction to the last, decoding included: N frames are N−1 intervals.
    """

    predictions: tuple[Prediction, ...]
    top1: float
    fps: float


def accuracy_of(classifiers: Sequence[Classifier], folder: Path, progress: Progress) -> list[Accuracy]:
    """Measure the accuracy of each classifier on photos, one folder a class, and its agreement with the first."""
    paths = list_images(folder)
    truth = np.array([LABELS.index(path.parent.name) for path in paths])
    photos = (read_image(path)[..., ::-1] for path in progress.track(paths, total=len(paths), unit="images"))
    rows = [[classifier.logits(photo) for classifier in classifiers] for photo in photos]
    logits = np.swapaxes(np.array(rows), 0, 1)
    return [
        Accuracy(
            top1=100.0 * float(np.mean(each.argmax(axis=1) == truth)),
            agreement=parity(logits[0], each).agreement,
            images=len(paths),
        )
        for each in logits
    ]


def streamed(classifier: Classifier, clip: Path, truth: Sequence[str], progress: Progress) -> Streamed:
    """Stream the clip through a classifier."""
    predictions, ticks = [], []
    stream = classifier.stream(str(clip), policy="every")
    for prediction in progress.track(stream, total=len(truth), unit="frames"):
        ticks.append(time.perf_counter_ns())
        predictions.append(replace(prediction, picture=None))
    right = [prediction.label == label for prediction, label in zip(predictions, truth, strict=True)]
    return Streamed(
        predictions=tuple(predictions),
        top1=100.0 * float(np.mean(right)),
        fps=(len(ticks) - 1) * 1e9 / (ticks[-1] - ticks[0]),
    )


def latencies_of(
    classifiers: Sequence[Classifier], frames: Sequence[NDArray[np.uint8]], progress: Progress
) -> list[ClassifyLatency]:
    """Measure the latency of each classifier; they take turns, so that heat and other processes affect all alike."""
    calls = [_call(classifier, frames) for classifier in classifiers]
    for call in calls:
        warm_up(call, limit=WARM_UP_SECONDS)
    taken: list[list[Samples]] = [[] for _ in calls]
    for _ in progress.track(range(ROUNDS), total=ROUNDS, unit="rounds"):
        for call, samples in zip(calls, taken, strict=True):
            samples.append(time_turn(call, seconds=TURN_SECONDS, settling=SETTLING_CALLS))
    return [_latency(concatenate(samples)) for samples in taken]


def precision_in_use(classifier: Classifier) -> str:
    """Return the precision that the engine computes in on this machine, such as ``int8 + bf16``."""
    info = classifier.info
    rest = "" if info.rest_precision == info.effective_precision else f" + {info.rest_precision}"
    return f"{info.effective_precision}{rest}"


def _call(classifier: Classifier, frames: Sequence[NDArray[np.uint8]]) -> TimedCall:
    endless = itertools.cycle(frames)

    def call() -> StageTimes:
        return classifier.classify(next(endless)).stages_ms

    return call


def _latency(samples: Samples) -> ClassifyLatency:
    p50, p99 = np.percentile(samples.milliseconds, [50, 99])
    return ClassifyLatency(
        p50_ms=float(p50),
        p99_ms=float(p99),
        infer_p50_ms=float(np.median(samples.infer)),
        fps=len(samples) * 1e9 / float(samples.total.sum()),
        calls=len(samples),
    )
