"""Workers: threads that take frames through a classifier, from preprocessing to their classes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from vitedge.bundle.preprocessing import ChannelOrder
from vitedge.prediction import Image, Prediction
from vitedge.runtime.preprocess.orientation import is_turned
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.stream.queue import Job, JobQueue

WORKERS_PAY_FROM = 500
"""Length of a stream from which workers save time: to open them took 2.8 core-s, of which a frame saved 6 core-ms."""


class FrameClassifier(Protocol):
    """What a stream needs of a classifier."""

    def classify(self, image: Image | YuvPlanes, *, topk: int, order: ChannelOrder) -> Prediction:
        """Classify an ``H×W×3`` frame, or the planes of a decoder; several threads may call it."""

    def oriented(self, image: Image | YuvPlanes, orientation: int) -> Image | YuvPlanes:
        """Turn a picture by its EXIF orientation, if the model asks for it; else return it as it is."""

    def orientation_notice(self, count: int, subject: str) -> str:
        """Describe what became of images that state an orientation."""

    def workers(self, *, batches: bool) -> Sequence[FrameClassifier]:
        """Return classifiers for one thread each, which together reach a higher throughput; empty if there are none.

        Args:
            batches: whether as many frames as a batch has will wait at once.
        """


@runtime_checkable
class BatchClassifier(FrameClassifier, Protocol):
    """A classifier that takes several frames at once, in less time.

    Attributes:
        batch: number of frames.
    """

    batch: int

    def classify_batch(
        self, images: Sequence[tuple[Image | YuvPlanes, ChannelOrder]], *, topk: int
    ) -> Sequence[Prediction | Exception]:
        """Classify at most ``batch`` frames, each with the order of its channels; one thread at a time calls it.

        Returns:
            For each frame its prediction, or the exception that ``classify`` would raise.
        """


def batch_of(classifier: FrameClassifier) -> int:
    """Return the number of frames that a classifier takes at once. The check takes some 20 µs: do it once a thread."""
    return classifier.batch if isinstance(classifier, BatchClassifier) else 1


def workers_for(classifier: FrameClassifier, length: int | None, max_frames: int | None) -> Sequence[FrameClassifier]:
    """Return the classifier of each worker thread: the classifier's workers if the stream is long enough for them.

    Otherwise two threads share the classifier, so that one frame is preprocessed while another is inferred.

    Args:
        classifier: the classifier of the stream.
        length: frames of the source; None if unknown.
        max_frames: predictions after which the stream ends; None for no bound.
    """
    limits = [limit for limit in (length, max_frames) if limit is not None]
    pays = min(limits, default=WORKERS_PAY_FROM) >= WORKERS_PAY_FROM
    return (classifier.workers(batches=True) if pays else ()) or [classifier] * 2


def work(classifier: FrameClassifier, jobs: JobQueue, topk: int) -> None:
    """Classify jobs until their queue ends; runs in a worker thread. An error belongs to its job.

    Args:
        classifier: classifies the frames.
        jobs: the queue.
        topk: number of classes per prediction.
    """
    more = batch_of(classifier) - 1
    while (job := jobs.take()) is not None:
        taken = [job, *(jobs.take_more(more) if more else ())]
        for old in [each for each in taken if each.intake.refuses(age_ms(each.frame))]:
            jobs.discard(old)
            taken.remove(old)
        jobs.done(*outcomes(classifier, taken, topk))


def outcomes(
    classifier: FrameClassifier, jobs: Sequence[Job], topk: int
) -> Iterator[tuple[Job, Prediction | BaseException]]:
    """Classify jobs, at once if they are as many as the classifier takes, and yield each with its outcome."""
    if len(jobs) > 1 and isinstance(classifier, BatchClassifier) and len(jobs) == classifier.batch:
        yield from zip(jobs, _classified_batch(classifier, jobs, topk), strict=True)
        return
    for job in jobs:
        try:
            outcome: Prediction | BaseException = _classified(classifier, job, topk)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the consumer gets it, not this thread
            outcome = error
        yield job, outcome


def _classified_batch(
    classifier: BatchClassifier, jobs: Sequence[Job], topk: int
) -> Sequence[Prediction | BaseException]:
    try:
        return classifier.classify_batch([(_upright(classifier, job), job.frame.order) for job in jobs], topk=topk)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the consumer gets it, not this thread
        return [error] * len(jobs)


def _classified(classifier: FrameClassifier, job: Job, topk: int) -> Prediction:
    return classifier.classify(_upright(classifier, job), topk=topk, order=job.frame.order)


def _upright(classifier: FrameClassifier, job: Job) -> Image | YuvPlanes:
    """Return the pixels of a job as they are classified, and note them as its picture."""
    frame = job.frame
    pixels = classifier.oriented(frame.pixels, frame.orientation) if is_turned(frame.orientation) else frame.pixels
    job.picture = _Shown(frame, pixels)
    return pixels


def completed(prediction: Prediction, job: Job, *, age: float, dropped: int) -> Prediction:
    """Return the prediction of a job as the application gets it.

    Args:
        prediction: what the classifier made of its frame.
        job: the job.
        age: milliseconds since the capture of its frame.
        dropped: number of frames dropped since the prediction before it.
    """
    frame = job.frame
    return replace(
        prediction,
        frame=frame.index,
        captured_at=frame.captured_at,
        age_ms=age,
        dropped=dropped,
        picture=job.picture,
        file=frame.file,
        pts=frame.pts,
        captured_ns=frame.captured_ns,
        source=job.intake.name,
        epoch=frame.epoch,
        age_basis=frame.age_basis,
    )


def age_ms(frame: Frame) -> float:
    """Return the milliseconds since a frame was captured, at least 0: clocks of cameras run ahead a little."""
    return max(0, time.monotonic_ns() - frame.captured_ns) / 1e6


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
