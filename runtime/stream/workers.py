"""Workers: threads that take frames through a classifier, from preprocessing to their classes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from vitedge.bundle.preprocessing import ChannelOrder
from vitedge.prediction import Image, Prediction
from vitedge.runtime.preprocess.orientation import is_turned
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.stream.queue import JobQueue

WORKERS_PAY_FROM = 200
"""Length of a stream from which workers save time, because opening them compiles the graph once more."""


class FrameClassifier(Protocol):
    """What a stream needs of a classifier."""

    def classify(self, image: Image | YuvPlanes, *, topk: int, order: ChannelOrder) -> Prediction:
        """Classify an ``H×W×3`` frame, or the planes of a decoder; several threads may call it."""

    def oriented(self, image: Image | YuvPlanes, orientation: int) -> Image | YuvPlanes:
        """Turn a picture by its EXIF orientation, if the model asks for it; else return it as it is."""

    def orientation_notice(self, count: int, subject: str) -> str:
        """Describe what became of images that state an orientation."""

    def workers(self) -> Sequence[FrameClassifier]:
        """Return classifiers for one thread each, which together reach a higher throughput; empty if there are none."""


def workers_for(classifier: FrameClassifier, length: int | None, max_frames: int | None) -> Sequence[FrameClassifier]:
    """Return the classifier of each worker thread: the classifier's workers if the stream is long enough for them.

    Otherwise two threads share the classifier, so that one frame is preprocessed while another is inferred.

    Args:
        classifier: the classifier of the stream.
        length: frames of the source; None if unknown.
        max_frames: predictions after which the stream ends; None for no bound.
    """
    limits = [limit for limit in (length, max_frames) if limit is not None]
    opened = classifier.workers() if min(limits, default=WORKERS_PAY_FROM) >= WORKERS_PAY_FROM else ()
    return opened or [classifier] * 2


def work(classifier: FrameClassifier, jobs: JobQueue, topk: int) -> None:
    """Classify jobs until their queue ends; runs in a worker thread. An error belongs to its job.

    Args:
        classifier: classifies the frames.
        jobs: the queue.
        topk: number of classes per prediction.
    """
    while (job := jobs.take()) is not None:
        if job.intake.refuses(age_ms(job.frame)):
            jobs.discard(job)
            continue
        try:
            jobs.done(job, classified(classifier, job.frame, topk))
        except BaseException as error:  # noqa: BLE001  # whatever it is, the consumer gets it, not this thread
            jobs.done(job, error)


def classified(classifier: FrameClassifier, frame: Frame, topk: int) -> Prediction:
    """Classify a frame; the prediction carries the frame as it was classified."""
    turns = is_turned(frame.orientation)
    pixels = classifier.oriented(frame.pixels, frame.orientation) if turns else frame.pixels
    prediction = classifier.classify(pixels, topk=topk, order=frame.order)
    return replace(
        prediction,
        frame=frame.index,
        captured_at=frame.captured_at,
        picture=_Shown(frame, pixels),
        file=frame.file,
        pts=frame.pts,
        captured_ns=frame.captured_ns,
        epoch=frame.epoch,
        age_basis=frame.age_basis,
    )


def age_ms(frame: Frame) -> float:
    """Return the milliseconds since a frame was captured."""
    return (time.monotonic_ns() - frame.captured_ns) / 1e6


@dataclass(frozen=True)
class _Shown:
    """The frame of a prediction, as its model saw it.

    Attributes:
        frame: the frame.
        pixels: its pixels, turned if its model asks for it.
    """

    frame: Frame
    pixels: Image | YuvPlanes

    def bgr(self) -> Image:
        """Return the frame, converted once."""
        return self._converted

    @cached_property
    def _converted(self) -> Image:
        if isinstance(self.pixels, YuvPlanes):
            return self.frame.image
        return self.pixels if self.frame.order == "BGR" else np.ascontiguousarray(self.pixels[..., ::-1])
