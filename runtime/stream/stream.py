"""``Stream``: the threads between a source of frames and the code that consumes their predictions.

    latest   reader ─▶ the newest frame ─▶ one worker, which begins when the consumer waits ─▶ consumer
    every    reader ─▶ bounded queue ─▶ workers, a thread each ─▶ consumer, in the order of the frames

Under ``latest`` a frame is preprocessed when the consumer wants a prediction, so that it is as fresh as possible. Under
``every`` no frame is lost and throughput counts: workers that each take a frame through all stages on one core waste
less of the processor than stages that pass it on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from vitedge.errors import UsageError, did_you_mean
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.stream.intake import Intake
from vitedge.runtime.stream.opening import Opening, StreamSource
from vitedge.runtime.stream.pipeline import Pipeline
from vitedge.runtime.stream.predictions import PredictionStream, check_arguments
from vitedge.runtime.stream.queue import JobQueue
from vitedge.runtime.stream.reader import Reader
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.states import OnState, StateCalls, StateChange, StreamState
from vitedge.runtime.stream.stats import StreamStats
from vitedge.runtime.stream.workers import WORKERS_PAY_FROM, FrameClassifier, batch_of, work, workers_for

__all__ = ["POLICIES", "WORKERS_PAY_FROM", "FrameClassifier", "Policy", "Stream", "StreamSource"]

logger = logging.getLogger("vitedge")

Policy = Literal["latest", "every"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
QUEUED_FRAMES = 3
"""Frames that wait under ``every``, besides the one in each worker."""
FRAMES_AHEAD = 8
"""Further frames of a file or list that wait if they are small: its reader is woken for so many at once."""


class Stream(PredictionStream):
    """The predictions of a source, one per classified frame, in the order of the frames; each has its image.

        with Stream(classifier, "rtsp://camera/1") as stream:
            for prediction in stream:
                ...

    It is an iterator, an asynchronous iterator, and a context manager of both kinds. A live source is read from the
    moment at which the stream is made, so that the first prediction is of a fresh frame; other sources are read from
    the first prediction that is asked for. A live source that was online is opened again when its connection breaks.

    Any thread and any signal handler may end the stream. Its threads end when the stream ends. The stream closes the
    source, unless it was passed in open. A stream that is garbage-collected before its end closes itself, with a
    ResourceWarning.

    Attributes:
        policy: the policy in force.

    Args:
        classifier: classifies the frames. Other calls to it may go on, and take turns with the stream if they share an
            engine.
        source: as for ``vitedge.runtime.sources.open.open_source``; or a function without arguments that opens a source
            of your own, which is called again to reconnect.
        policy: ``latest`` classifies the newest frame and counts the frames that it drops; a video file is then played
            at its own speed, like a camera. ``every`` classifies all frames and makes the source wait. By default
            ``latest`` for cameras and network streams, ``every`` for files and iterables.
        max_frames: number of predictions after which to end.
        topk: number of classes per prediction.
        options: options of the source, with its timeouts. For a source that is passed in open, only the timeouts count.
        reconnect: what to do when a live source fails. None opens it again for ever once it was online, and raises the
            errors of the first opening. True also tries again when the first opening fails. A ``Reconnect`` does so
            with delays and bounds of its own. False never opens it again. A source that is passed in open cannot be
            opened again.
        max_age_ms: no prediction is older than so many milliseconds: older frames are dropped, and counted.
        on_state: called with a ``StateChange`` for each change of state, in order, in a thread of its own. It may
            block, raise or close the stream; only its own later calls wait for it.
        skip_corrupt: whether frames in which the decoder concealed damage are dropped, and counted.

    Raises:
        UsageError: the policy is unknown, ``max_frames`` or ``topk`` is below 1, or ``max_age_ms`` is not above 0.
        FrameSourceError: the source cannot be opened; or, while iterating and after the predictions of the good frames,
            it stopped delivering.
        EngineError: while iterating: the engine failed, or this process was forked after the stream was made.
    """

    _pipeline: _Pipeline

    def __init__(
        self,
        classifier: FrameClassifier,
        source: StreamSource,
        *,
        policy: Policy | None = None,
        max_frames: int | None = None,
        topk: int = 5,
        options: SourceOptions | None = None,
        reconnect: bool | Reconnect | None = None,
        max_age_ms: float | None = None,
        on_state: OnState | None = None,
        skip_corrupt: bool = True,
    ) -> None:
        _check_policy(policy)
        check_arguments(max_frames, topk, max_age_ms)
        self._orientation_notice = classifier.orientation_notice
        opening = Opening(source, options, reconnect)
        calls = StateCalls(on_state) if on_state is not None else None
        try:
            first = opening.first()
            self.policy: Policy = policy or ("latest" if first is None or first.live else "every")
            self._pipeline = _Pipeline(
                classifier,
                opening,
                first,
                newest_only=self.policy == "latest",
                max_frames=max_frames,
                topk=topk,
                max_age_ms=max_age_ms,
                skip_corrupt=skip_corrupt,
                calls=calls,
            )
            if self._pipeline.reader.live:
                self._pipeline.reader.start()
        except BaseException:
            if calls is not None:
                calls.end()
            raise
        super().__init__(self._pipeline)

    @property
    def source(self) -> FrameSource:
        """Return the source of the newest connection."""
        return self._pipeline.reader.source or _Unopened(self._pipeline.reader.name)

    @property
    def stats(self) -> StreamStats:
        """Return the counts at this moment."""
        return self._pipeline.stats()

    @property
    def state(self) -> StreamState:
        """Return the state of the source at this moment."""
        return self._pipeline.reader.state

    @property
    def fps(self) -> float:
        """Return the predictions per second in the last 5 seconds; 0 if there were fewer than two."""
        return self._pipeline.intake.ledger.fps

    @property
    def notices(self) -> tuple[str, ...]:
        """Return problems that did not end the stream, and how images with an orientation were handled."""
        reader = self._pipeline.reader
        turned = reader.oriented
        return (*reader.notices, *([self._orientation_notice(turned, reader.name)] if turned else ()))


class _Unopened(FrameSource):
    """Stands for a live source before its first connection."""

    live = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __iter__(self) -> Iterator[Frame]:
        """Yield nothing."""
        return iter(())

    def close(self) -> None:
        """Do nothing."""


class _Pipeline(Pipeline):
    """The threads of the stream of one source.

    Attributes:
        intake: takes the frames of the source.
        reader: reads the source.
    """

    def __init__(
        self,
        classifier: FrameClassifier,
        opening: Opening,
        first: FrameSource | None,
        *,
        newest_only: bool,
        max_frames: int | None,
        topk: int,
        max_age_ms: float | None,
        skip_corrupt: bool,
        calls: StateCalls | None,
    ) -> None:
        self._classifier = classifier
        self._newest_only = newest_only
        self._topk = topk
        jobs = JobQueue(
            QUEUED_FRAMES,
            newest_only=newest_only,
            live=first is None or first.live,
            on_drop=lambda: self.intake.ledger.drop("newer"),
            ahead=0 if newest_only or not _has_all_frames(first) else FRAMES_AHEAD,
        )
        super().__init__(jobs, max_frames=max_frames, calls=calls)
        self.intake = Intake(None, jobs.put, max_age_ms=max_age_ms, skip_corrupt=skip_corrupt)
        self.reader = Reader(
            opening.connect,
            first=first,
            name=first.name if first is not None else opening.name,
            deliver=self.intake.deliver,
            finish=jobs.finish,
            on_state=self._report,
            reconnect=opening.policy,
            options=opening.options,
            opened_in=opening.seconds,
            paced=newest_only and first is not None and not first.live,
        )

    @property
    def readers(self) -> Sequence[Reader]:
        """Return the reader of the source."""
        return (self.reader,)

    @property
    def intakes(self) -> Sequence[Intake]:
        """Return the intake of the source."""
        return (self.intake,)

    def stats(self) -> StreamStats:
        """Return the counts at this moment."""
        stats = self.intake.ledger.stats(self.reader.stats)
        return replace(stats, left_behind=stats.left_behind + self.workers_left_behind())

    def _run_workers(self) -> None:
        """Open the workers, start a thread for each but one, and be the one."""
        try:
            workers = [self._classifier] if self._newest_only else self._opened_workers()
            batches = (len(workers) + 1) * (batch_of(workers[0]) - 1)  # one batch fills while the others are computed
            capacity = len(workers) + QUEUED_FRAMES
            self._jobs.widen(capacity, capacity + batches)
            for worker in workers[1:]:
                self._run("worker", work, worker, self._jobs, self._topk)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the consumer gets it, not this thread
            self._jobs.fail(error)
        else:
            work(workers[0], self._jobs, self._topk)

    def _opened_workers(self) -> Sequence[FrameClassifier]:
        source = self.reader.source
        return workers_for(self._classifier, source.length if source is not None else None, self._max_frames)

    def _report(self, change: StateChange) -> None:
        super()._report(change)
        if change.state == "ended" and self._calls is not None:
            self._calls.end()


def _has_all_frames(source: FrameSource | None) -> bool:
    """Return whether a source is a file or list, whose frames are there already; a generator may wait for its own."""
    return source is not None and not source.live and source.length is not None


def _check_policy(policy: Policy | None) -> None:
    if policy is not None and policy not in POLICIES:
        raise UsageError(
            f"unknown policy {policy!r}",
            expected=f"one of {', '.join(POLICIES)}",
            fix=did_you_mean(str(policy), POLICIES),
        )
