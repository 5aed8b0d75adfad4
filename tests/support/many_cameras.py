"""Cameras and classifiers for tests of streams of several, and what their counts must add up to."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.stream.cameras.streams import Streams
from vitedge.testing import FakeSource


def picture(number: int) -> np.ndarray:
    return np.full((4, 4, 3), number % 256, np.uint8)


class Counting:
    """A classifier whose class is the value of a frame's pixels."""

    def __init__(self, pause: float = 0.0, workers: Sequence[Counting] = ()) -> None:
        self.pause = pause
        self.errors: dict[int, BaseException] = {}
        self.classified = 0
        self._workers = workers
        self.asked_for_batches: list[bool] = []
        self.workers_error: BaseException | None = None

    def classify(self, image, *, topk, order):
        number = int((image if isinstance(image, np.ndarray) else image.bgr())[0, 0, 0])
        if number in self.errors:
            raise self.errors[number]
        time.sleep(self.pause)
        self.classified += 1
        best = tuple(ClassScore(str(number), place, 1.0) for place in range(topk))
        return Prediction(best, 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0))

    def oriented(self, image, orientation):
        return image

    def orientation_notice(self, count, subject):
        return f"{count} turned"

    def workers(self, *, batches):
        if self.workers_error is not None:
            raise self.workers_error
        self.asked_for_batches.append(batches)
        return self._workers


class Batching(Counting):
    """A worker that takes several frames at once."""

    batch = 3

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(pause)
        self.batches: list[int] = []

    def classify_batch(self, images, *, topk):
        self.batches.append(len(images))
        return [self.classify(image, topk=topk, order=order) for image, order in images]


def camera(fps: float | None = 200.0, *, frames: int | None = None, error: BaseException | None = None) -> FakeSource:
    """A live source; endless unless ``frames`` says how many it delivers before it ends or fails."""
    return FakeSource(
        lambda index: picture(index) if frames is None or index < frames else None, fps=fps, live=True, error=error
    )


def check_counts(streams: Streams) -> None:
    """Each captured frame is a prediction or a counted drop, in each camera and in total."""
    stats = streams.stats
    for each in (stats.total, *stats.cameras.values()):
        assert each.under_way == 0
        assert each.captured == each.predicted + sum(each.dropped.values())
    for name in ("captured", "predicted"):
        assert getattr(stats.total, name) == sum(getattr(each, name) for each in stats.cameras.values())


def last_frame(predictions: Sequence[Prediction], name: str) -> int:
    """The index of the last frame of a camera; the newest frame is never lost."""
    return [each.frame for each in predictions if each.source == name][-1]
