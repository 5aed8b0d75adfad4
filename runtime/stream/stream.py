"""``Stream``: the threads between a source of frames and the code that consumes their predictions.

    latest   reader thread ─▶ queue of one, drops the oldest ─▶ consumer: classify
    every    reader thread ─▶ bounded queue ─▶ workers, a thread each: classify ─▶ consumer, in the order of the frames

Under ``latest`` a frame is preprocessed in the consumer's thread when the engine is free, so that its prediction is as
fresh as possible. Under ``every`` no frame is lost and throughput counts: workers that each take a frame through all
stages on one core waste less of the processor than stages that pass it on.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

import numpy as np

from vitedge.bundle.preprocessing import ChannelOrder
from vitedge.errors import FrameSourceError, UsageError, did_you_mean
from vitedge.prediction import Image, Prediction
from vitedge.runtime.preprocess.orientation import is_turned
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.open import Source, open_source
from vitedge.runtime.stream.queue import BoundedQueue, Item, feed
from vitedge.runtime.system.owned import Owned

logger = logging.getLogger("vitedge")

T = TypeVar("T")

Policy = Literal["latest", "every"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
QUEUED_FRAMES = 2
"""Frames that wait under ``every``, besides the one in each worker."""
WORKERS_PAY_FROM = 200
"""Length of a stream from which workers save time, because opening them compiles the graph once more."""
STALL_SECONDS = 15.0
JOIN_SECONDS = 5.0


class FrameClassifier(Protocol):
    """What a stream needs of a classifier."""

    def classify(self, image: Image | YuvPlanes, *, topk: int, order: ChannelOrder) -> Prediction:
        """Classify an ``H×W×3`` frame, or the planes of a decoder; several threads may call it."""

    def oriented(self, image: Image, orientation: int) -> Image:
        """Turn an image by its EXIF orientation, if the model asks for it."""

    def orientation_notice(self, count: int, subject: str) -> str:
        """Describe what became of images that state an orientation."""

    def workers(self) -> Sequence[FrameClassifier]:
        """Return classifiers for one thread each, which together reach a higher throughput; empty if there are none."""


@dataclass(frozen=True)
class _Job:
    """A frame for any worker; the consumer takes the jobs in their order and waits for the outcome of each."""

    frame: Frame
    outcome: BoundedQueue[Prediction] = field(default_factory=lambda: BoundedQueue(1, drop_oldest=False))


class Stream(Owned):
    """The predictions of a source, one per classified frame, in the order of the frames; each has its image.

        with Stream(classifier, "clip.mp4") as stream:
            for prediction in stream:
                ...

    Errors of the arguments and of opening the source are raised at the call. Threads start with the first prediction
    that is asked for. They end when the stream ends or is closed. The stream closes the source, unless it was passed in
    open. Any thread may close it. A stream that is garbage-collected before its end closes itself, with a
    ResourceWarning.

    Attributes:
        source: the source, open.
        policy: the policy in force.

    Args:
        classifier: classifies the frames. Other calls to it may go on, and take turns with the stream if they share an
            engine.
        source: as for ``vitedge.runtime.sources.open.open_source``.
        policy: ``latest`` classifies the newest frame and counts the frames that it drops; a video file is then played
            at its own speed, like a camera. ``every`` classifies all frames and makes the source wait. By default
            ``latest`` for cameras and network streams, ``every`` for files and iterables.
        max_frames: number of predictions after which to end.
        topk: number of classes per prediction.

    Raises:
        UsageError: the policy is unknown, or ``max_frames`` or ``topk`` is below 1.
        FrameSourceError: the source cannot be opened; or, while iterating and after the predictions of the good frames,
            it stopped delivering.
        EngineError: while iterating: the engine failed, or this process was forked after the stream was made.
    """

    _runs_threads: ClassVar[bool] = True

    def __init__(
        self,
        classifier: FrameClassifier,
        source: Source,
        *,
        policy: Policy | None = None,
        max_frames: int | None = None,
        topk: int = 5,
    ) -> None:
        _check_arguments(policy, max_frames, topk)
        self.source: FrameSource = open_source(source)
        self.policy: Policy = policy or ("latest" if self.source.live else "every")
        self._orientation_notice = classifier.orientation_notice
        self._owns_source = self.source is not source
        self._started = False
        self._advancing = False
        self._consuming = threading.RLock()
        self._threads = _Threads(self.source.close if self._owns_source else _nothing)
        self._predictions = _predictions(
            classifier, self.source, self._threads, self.policy, max_frames, topk, owns_source=self._owns_source
        )
        self._acquired("the stream")

    @property
    def notices(self) -> tuple[str, ...]:
        """Problems that did not end the stream, and what became of images that state an orientation."""
        count = self.source.oriented
        return (*self.source.notices, *([self._orientation_notice(count, self.source.name)] if count else ()))

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Prediction:
        self._check_process()
        with self._consuming:
            self._started = self._advancing = True
            try:
                return next(self._predictions)
            except BaseException:
                self._released()  # the generator has ended
                raise
            finally:
                self._advancing = False

    def close(self) -> None:
        """End the stream and its threads; a second call does nothing.

        A thread that waits for a prediction gets its end.
        """
        self._check_process()
        self._released()
        self._threads.stop()
        if not self._consuming.acquire(timeout=2 * JOIN_SECONDS):
            logger.warning("a frame is still being classified; the stream ends after it")
            return
        try:
            if not self._advancing:  # otherwise a signal handler interrupted the consumer, which ends the stream
                self._predictions.close()
            if self._owns_source and not self._started:  # a generator that was never started closes nothing
                self.source.close()
        finally:
            self._consuming.release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)


def _check_arguments(policy: Policy | None, max_frames: int | None, topk: int) -> None:
    if policy is not None and policy not in POLICIES:
        raise UsageError(
            f"unknown policy {policy!r}",
            expected=f"one of {', '.join(POLICIES)}",
            fix=did_you_mean(str(policy), POLICIES),
        )
    for name, number in (("max_frames", max_frames), ("topk", topk)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}", expected="1 or more")


def _predictions(
    classifier: FrameClassifier,
    source: FrameSource,
    threads: _Threads,
    policy: Policy,
    max_frames: int | None,
    topk: int,
    *,
    owns_source: bool,
) -> Generator[Prediction, None, None]:
    with threads:
        paced = policy == "latest" and not source.live
        frames = _read(source, threads.stopping, paced=paced, owns_source=owns_source)
        if policy == "latest":
            predictions = _latest(classifier, source, frames, threads, topk)
        else:
            workers = _workers(classifier, source.length, max_frames)
            predictions = _every(workers, source, frames, threads, topk)
        yield from itertools.islice(predictions, max_frames)


def _nothing() -> None:
    """Leave the caller's source open."""


def _latest(
    classifier: FrameClassifier, source: FrameSource, frames: Iterator[Frame], threads: _Threads, topk: int
) -> Iterator[Prediction]:
    newest: BoundedQueue[Frame] = threads.queue(1, drop_oldest=True)
    threads.start("reader", feed, frames, newest)
    for item in _received(newest, source):
        yield _delivered(_classified(classifier, item.value, topk), item.value, dropped=item.dropped)


def _every(
    workers: Sequence[FrameClassifier],
    source: FrameSource,
    frames: Generator[Frame, None, None],
    threads: _Threads,
    topk: int,
) -> Iterator[Prediction]:
    """Put each job into two queues: workers take it from one as they become free, the consumer from the other."""
    capacity = len(workers) + QUEUED_FRAMES
    waiting: BoundedQueue[_Job] = threads.queue(capacity, drop_oldest=False)
    ordered: BoundedQueue[_Job] = threads.queue(capacity, drop_oldest=False)
    for worker in workers:
        threads.start("worker", _work, worker, waiting, topk)
    threads.start("reader", feed, _jobs(frames, waiting), ordered)
    for job in (item.value for item in _received(ordered, source)):
        outcome = job.outcome.get()
        if outcome is not None:
            yield _delivered(outcome.value, job.frame)


def _workers(classifier: FrameClassifier, length: int | None, max_frames: int | None) -> Sequence[FrameClassifier]:
    """Return the classifier of each worker thread: the classifier's workers if the stream is long enough for them.

    Otherwise two threads share the classifier, so that one frame is preprocessed while another is inferred.
    """
    limits = [limit for limit in (length, max_frames) if limit is not None]
    opened = classifier.workers() if min(limits, default=WORKERS_PAY_FROM) >= WORKERS_PAY_FROM else ()
    return opened or [classifier] * 2


def _jobs(frames: Generator[Frame, None, None], waiting: BoundedQueue[_Job]) -> Iterator[_Job]:
    """Hand every frame to the workers as a job, and yield the job; runs in the reader thread."""
    with closing(frames):
        for frame in frames:
            job = _Job(frame)
            if not waiting.put(job):
                return
            yield job


def _work(classifier: FrameClassifier, waiting: BoundedQueue[_Job], topk: int) -> None:
    """Classify jobs in a worker thread; an error belongs to its frame, and the consumer gets it there."""
    for job in waiting:
        feed((_classified(classifier, frame, topk) for frame in (job.frame,)), job.outcome)


def _received(queue: BoundedQueue[T], source: FrameSource) -> Iterator[Item[T]]:
    """Yield the items of a queue; a live source must deliver in time, because a driver may block forever."""
    timeout = STALL_SECONDS if source.live else None
    try:
        while (item := queue.get(timeout)) is not None:
            yield item
    except TimeoutError as error:
        raise FrameSourceError(
            f"{source.name} delivered nothing for {STALL_SECONDS:g} s",
            expected="a camera or stream that goes on",
            fix="check the cable, the power and the network, then open it again",
        ) from error


def _read(
    source: FrameSource, stopping: threading.Event, *, paced: bool, owns_source: bool
) -> Generator[Frame, None, None]:
    """Yield the frames of a source at its speed; runs in the reader thread.

    A reader that the stream has left behind, because its source does not answer, closes the source when it ends.
    """
    try:
        yield from _paced(source, source.fps, stopping) if paced else source
    finally:
        if owns_source:
            source.close()


def _paced(frames: Iterable[Frame], fps: float | None, stopping: threading.Event) -> Iterator[Frame]:
    """Yield each frame at its presentation time; one without a time when a camera of the frame rate would capture it.

    A source that has neither is not paced.
    """
    begun, first = 0.0, 0.0
    for count, frame in enumerate(frames):
        if not count:
            begun, first = time.monotonic(), frame.pts or 0.0
        if frame.pts is None and not fps:
            yield frame
            continue
        elapsed = frame.pts - first if frame.pts is not None else count / (fps or 1.0)
        if stopping.wait(min(threading.TIMEOUT_MAX, max(0.0, begun + elapsed - time.monotonic()))):
            return
        yield replace(frame, captured_at=time.time(), captured_ns=time.monotonic_ns())


@dataclass(frozen=True)
class _Shown:
    """The frame of a prediction, as its model saw it.

    Attributes:
        frame: the frame.
        upright: its image, turned; None if it is shown as it is stored.
    """

    frame: Frame
    upright: Image | None

    def bgr(self) -> Image:
        """Return the frame, converted once."""
        return self._converted

    @cached_property
    def _converted(self) -> Image:
        image = self.frame.image if self.upright is None else self.upright
        return image if self.frame.order == "BGR" else np.ascontiguousarray(image[..., ::-1])


def _classified(classifier: FrameClassifier, frame: Frame, topk: int) -> Prediction:
    """Classify a frame; the prediction carries the frame as it was classified."""
    upright = classifier.oriented(frame.image, frame.orientation) if is_turned(frame.orientation) else None
    pixels = frame.pixels if upright is None else upright
    prediction = classifier.classify(pixels, topk=topk, order=frame.order)
    return replace(
        prediction,
        frame=frame.index,
        captured_at=frame.captured_at,
        picture=_Shown(frame, upright),
        file=frame.file,
        pts=frame.pts,
        captured_ns=frame.captured_ns,
        epoch=frame.epoch,
        age_basis=frame.age_basis,
    )


def _delivered(prediction: Prediction, frame: Frame, *, dropped: int = 0) -> Prediction:
    """Set what is known only when the consumer gets the prediction: the age of its frame, and the drops before it."""
    return replace(prediction, age_ms=(time.monotonic_ns() - frame.captured_ns) / 1e6, dropped=dropped)


class _Threads:
    """The threads of one stream and the queues between them; leaving the context ends and joins them.

    Args:
        close: called once no thread is left; a thread that does not end closes what it uses itself.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self.stopping = threading.Event()
        self._queues: list[BoundedQueue[Any]] = []
        self._threads: list[threading.Thread] = []

    def queue(self, capacity: int, *, drop_oldest: bool) -> BoundedQueue[Any]:
        """Make a queue that stops, and wakes all who wait for it, when the stream ends."""
        queue: BoundedQueue[Any] = BoundedQueue(capacity, drop_oldest=drop_oldest)
        self._queues.append(queue)
        return queue

    def start(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        """Start a thread for work that ends once the queues have stopped."""
        thread = threading.Thread(target=work, args=arguments, name=f"vitedge-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """End the queues; the threads then end by themselves. A job that no worker took gets no outcome."""
        self.stopping.set()
        for queue in self._queues:
            for value in queue.stop():
                if isinstance(value, _Job):
                    value.outcome.stop()

    def __enter__(self) -> _Threads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        outlive = [thread for thread in self._threads if self._outlives(thread)]
        if not outlive:
            self._close_first_error_wins(error)

    def _close_first_error_wins(self, error: BaseException | None) -> None:
        try:
            self._close()
        except Exception:
            if error is None or isinstance(error, GeneratorExit):
                raise
            logger.warning("the source could not be closed either", exc_info=True)

    def _outlives(self, thread: threading.Thread) -> bool:
        """Join a thread, and return whether it still runs."""
        if thread is threading.current_thread():  # the garbage collector may run in any thread
            return True
        thread.join(JOIN_SECONDS)
        if thread.is_alive():
            logger.warning("%s still waits; it ends when its source or engine answers", thread.name)
        return thread.is_alive()
