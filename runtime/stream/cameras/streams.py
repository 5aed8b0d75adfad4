"""``Streams``: several cameras, one classifier.

    door ─▶ reader ─▶ its newest frame ─┐
    yard ─▶ reader ─▶ its newest frame ─┼─▶ the camera that has waited longest ─▶ worker ─▶ consumer
    gate ─▶ reader ─▶ its newest frame ─┘

One engine has all processors to itself while it keeps up, because that gives the lowest latency. When it is busy nearly
all the time, the classifier's workers take its place, because together they classify more frames.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vitedge.counts import counted
from vitedge.errors import FrameSourceError, MissingExtraError, UsageError, VitedgeError, did_you_mean
from vitedge.prediction import Prediction
from vitedge.runtime.engines.base import BATCH_FRAMES
from vitedge.runtime.sources.base import FrameSource
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.stream_list import check_name, is_stream_list, read_streams
from vitedge.runtime.stream.cameras.queue import CameraQueue
from vitedge.runtime.stream.cameras.saturation import Saturation
from vitedge.runtime.stream.intake import Intake
from vitedge.runtime.stream.opening import Opening, StreamSource
from vitedge.runtime.stream.pipeline import Pipeline
from vitedge.runtime.stream.predictions import PredictionStream, check_arguments
from vitedge.runtime.stream.queue import Job
from vitedge.runtime.stream.reader import Reader, words_of
from vitedge.runtime.stream.reconnect import Reconnect, policy_of
from vitedge.runtime.stream.states import OnState, StateCalls, StateChange, StreamState
from vitedge.runtime.stream.stats import DROP_CAUSES, StreamStats
from vitedge.runtime.stream.workers import FrameClassifier, batch_of, outcomes

logger = logging.getLogger("vitedge")

T = TypeVar("T")

MOST_CAMERAS = 256
"""Cameras of one object; each has two threads."""
HIGHEST_FPS = 1000.0

_OPEN_TIMEOUT = re.compile(r"[?&]open_timeout=(\d+(?:\.\d+)?)(?=[&#]|$)")


@dataclass(frozen=True)
class StreamsStats:
    """Counts of several cameras.

    Attributes:
        total: sums over the cameras; ``left_behind`` counts the workers, too.
        cameras: the counts of each camera by its name.
    """

    total: StreamStats
    cameras: Mapping[str, StreamStats]

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a dict of plain values; keys are added, never renamed."""
        cameras = {name: stats.to_json() for name, stats in self.cameras.items()}
        return {"version": 1, "total": self.total.to_json(), "cameras": cameras}


class Streams(PredictionStream):
    """The predictions of several cameras, which share one engine; each prediction has the name of its ``source``.

        with Streams(classifier, {"door": "rtsp://camera/1", "yard": "rtsp://camera/2"}) as streams:
            for prediction in streams:
                print(prediction.source, prediction.label)

    Iterate, stop and close it as a ``Stream``. All cameras are opened side by side, in threads, and read from the
    moment at which the object is made. The next prediction is of the newest frame of the camera that has waited longest
    for one, so that each gets its share if there is more to do than the engine can. Sources that are not live, such as
    video files, lose no frame: they wait for their turns.

    A camera that breaks, or that cannot be opened, leaves the others alone. It is opened again, unless the cause is one
    that time does not mend, or ``reconnect`` says otherwise. A camera that has ended for good has its error in
    ``errors``. When all have ended, the iteration ends. If any ended with an error, it raises a FrameSourceError that
    names them.

    Args:
        classifier: classifies the frames of all cameras. Other calls to it may go on, and take turns with these.
        cameras: the sources by their names, each as for ``Stream``; or the path of a ``.streams`` file. A name can
            be the name of a file: it has no slash and no backslash, and does not begin with a dot.
        max_fps: most predictions a second for each camera, on average: a number for all, or numbers by name. None for
            no limit. Frames beyond are dropped, and counted.
        max_frames: number of predictions after which to end, of all cameras together.
        topk: number of classes per prediction.
        options: options of all sources, or options by name.
        reconnect: when to open a live source again that fails. None and True try for ever; a ``Reconnect`` has delays
            and bounds of its own; False never tries again.
        max_age_ms: no prediction is older than so many milliseconds: older frames are dropped, and counted.
        on_state: called with a ``StateChange`` for each change of state of each camera, which its ``source`` names, in
            a thread of its own.
        skip_corrupt: whether frames in which the decoder concealed damage are dropped, and counted.

    Raises:
        UsageError: there is no camera, or a name, a number or an address is wrong; wrong addresses are found while the
            cameras are opened, and raised from the iteration.
        FrameSourceError: the ``.streams`` file cannot be read; or, while iterating and after the last prediction:
            cameras ended with an error.
        MissingExtraError: while iterating: a package that reads a source is not installed.
        EngineError: while iterating: the engine failed, or this process was forked after the object was made.
    """

    _pipeline: _Pipeline

    def __init__(
        self,
        classifier: FrameClassifier,
        cameras: Mapping[str, StreamSource] | str | Path,
        *,
        max_fps: float | Mapping[str, float] | None = None,
        max_frames: int | None = None,
        topk: int = 5,
        options: SourceOptions | Mapping[str, SourceOptions] | None = None,
        reconnect: bool | Reconnect | None = None,
        max_age_ms: float | None = None,
        on_state: OnState | None = None,
        skip_corrupt: bool = True,
    ) -> None:
        check_arguments(max_frames, topk, max_age_ms)
        cameras = _sources(cameras)
        limits = _by_name("max_fps", max_fps, tuple(cameras))
        _check_limits(limits)
        chosen = _by_name("options", options, tuple(cameras))
        self._orientation_notice = classifier.orientation_notice
        self._pipeline = _Pipeline(
            classifier,
            cameras,
            limits,
            chosen,
            policy=policy_of(reconnect),
            max_frames=max_frames,
            topk=topk,
            max_age_ms=max_age_ms,
            skip_corrupt=skip_corrupt,
            calls=None if on_state is None else StateCalls(on_state),
        )
        try:
            self._pipeline.begin_to_read()
        except BaseException:
            self._pipeline.stop()
            raise
        super().__init__(self._pipeline)

    @property
    def stats(self) -> StreamsStats:
        """Return the counts at this moment."""
        return self._pipeline.stats()

    @property
    def state(self) -> dict[str, StreamState]:
        """Return the state of each camera at this moment, by its name."""
        return {camera.name: camera.reader.state for camera in self._pipeline.cameras}

    @property
    def errors(self) -> dict[str, BaseException]:
        """Return the error of each camera that has ended with one, by its name."""
        return {camera.name: camera.error for camera in self._pipeline.cameras if camera.error is not None}

    @property
    def fps(self) -> dict[str, float]:
        """Return the predictions per second of each camera in the last 5 seconds, by its name."""
        return {camera.name: camera.intake.ledger.fps for camera in self._pipeline.cameras}

    @property
    def workers(self) -> int:
        """Return the number of workers that share the processors now; 1 while one engine has them all."""
        return self._pipeline.workers

    @property
    def notices(self) -> tuple[str, ...]:
        """Return problems that did not end a camera, each after its name."""
        return tuple(f"{camera.name}: {notice}" for camera in self._pipeline.cameras for notice in self._of(camera))

    def _of(self, camera: _Camera) -> tuple[str, ...]:
        turned = camera.reader.oriented
        return (*camera.reader.notices, *([self._orientation_notice(turned, camera.reader.name)] if turned else ()))


class _FirstOpeningError(VitedgeError):
    """An error of a first opening that has no cause which time might mend."""


class _Camera:
    """One camera.

    Attributes:
        name: its name.
        intake: takes its frames.
        reader: reads it.
        error: what ended it, unless it came to its end.
    """

    intake: Intake
    reader: Reader

    def __init__(self, name: str, source: StreamSource, options: SourceOptions | None) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._source = source
        self._opening = Opening(source, options, reconnect=False)
        self._was_open = False

    def make_reader(self, **arguments: Any) -> None:
        """Make the reader; arguments as for ``Reader``."""
        opening = self._opening
        first = opening.first() if opening.connect is None else None
        self.reader = Reader(
            None if opening.connect is None else self._connect,
            first=first,
            name=f"{self.name} ({first.name if first is not None else opening.name})",
            options=self._timeouts(opening.options),
            **arguments,
        )

    def _timeouts(self, options: SourceOptions | None) -> SourceOptions | None:
        """Return the options with the ``open_timeout`` that an address has in its query."""
        stated = _OPEN_TIMEOUT.search(self._source) if isinstance(self._source, str) else None
        return options if stated is None else replace(options or SourceOptions(), open_timeout=float(stated[1]))

    @property
    def is_live(self) -> bool:
        """Return whether frames that nobody reads are lost."""
        source = self.reader.source
        return source is None or source.live

    def _connect(self, open_timeout: float) -> FrameSource:
        if self._was_open and self._opening.connect is not None:
            return self._opening.connect(open_timeout)
        try:
            source = self._opening.first()
        except FrameSourceError as error:
            if error.cause is None:
                raise _FirstOpeningError(error.problem, expected=error.expected, fix=error.fix) from error
            raise
        assert source is not None  # without a policy, ``first`` raises
        self._was_open = True
        return source


class _Pipeline(Pipeline):
    """The threads of several cameras.

    Attributes:
        cameras: the cameras.
        workers: number of workers that share the processors.
    """

    _jobs: CameraQueue

    def __init__(
        self,
        classifier: FrameClassifier,
        sources: Mapping[str, StreamSource],
        max_fps: Mapping[str, float | None],
        options: Mapping[str, SourceOptions | None],
        *,
        policy: Reconnect | None,
        max_frames: int | None,
        topk: int,
        max_age_ms: float | None,
        skip_corrupt: bool,
        calls: StateCalls | None,
    ) -> None:
        super().__init__(CameraQueue(max_fps, self._final_error), max_frames=max_frames, calls=calls)
        self._classifier = classifier
        self._topk = topk
        self._saturation = Saturation(time.monotonic())
        self._deciding = threading.RLock()
        self._opened: Sequence[FrameClassifier] | None = None
        self._opening = False
        self._unended = set(sources)
        self.workers = 1
        self.cameras = [_Camera(name, source, options[name]) for name, source in sources.items()]
        for camera in self.cameras:
            put = partial(self._put, camera)
            camera.intake = Intake(camera.name, put, max_age_ms=max_age_ms, skip_corrupt=skip_corrupt)
            camera.make_reader(
                deliver=camera.intake.deliver,
                finish=partial(self._finish, camera),
                on_state=partial(self._report_camera, camera),
                reconnect=policy,
            )

    @property
    def readers(self) -> Sequence[Reader]:
        """Return the readers of all cameras."""
        return [camera.reader for camera in self.cameras]

    @property
    def intakes(self) -> Sequence[Intake]:
        """Return the intakes of all cameras."""
        return [camera.intake for camera in self.cameras]

    def begin_to_read(self) -> None:
        """Open all cameras, side by side."""
        for reader in self.readers:
            reader.start()

    def stats(self) -> StreamsStats:
        """Return the counts at this moment."""
        cameras = {camera.name: camera.intake.ledger.stats(camera.reader.stats) for camera in self.cameras}
        total = _summed(list(cameras.values()))
        return StreamsStats(replace(total, left_behind=total.left_behind + self.workers_left_behind()), cameras)

    # In the thread of a reader

    def _put(self, camera: _Camera, job: Job) -> bool:
        put = self._jobs.offer if camera.is_live else self._jobs.put_next
        return put(camera.name, job)

    def _finish(self, camera: _Camera, error: BaseException | None) -> None:
        """End a camera; the end of the last one is the end of the stream, and so is a mistake in the arguments."""
        if isinstance(error, UsageError):
            self._jobs.fail(UsageError(f"{camera.name}: {error.problem}", expected=error.expected, fix=error.fix))
        elif isinstance(error, MissingExtraError):
            self._jobs.fail(error)
        else:
            camera.error = error.__cause__ if isinstance(error, _FirstOpeningError) else error
            if error is not None:
                logger.warning("%s has ended: %s", camera.name, words_of(error))
            self._jobs.finish_camera(camera.name)

    def _report_camera(self, camera: _Camera, change: StateChange) -> None:
        self._report(replace(change, source=camera.name))
        if change.state == "ended":
            self._unended.discard(camera.name)
            if not self._unended and self._calls is not None:
                self._calls.end()

    # In the threads of workers

    def _run_workers(self) -> None:
        self._work(self._classifier, together=False)

    def _work(self, classifier: FrameClassifier, *, together: bool) -> None:
        """Classify frames until the queue ends. An error belongs to its job."""
        more = batch_of(classifier) - 1
        while (job := self._jobs.take_turn(together=together)) is not None:
            jobs = [job, *self._jobs.take_more(more)]
            begun = time.monotonic()
            self._jobs.done(*outcomes(classifier, jobs, self._topk))
            self._note(len(jobs), begun, time.monotonic())

    def _note(self, frames: int, begun: float, ended: float) -> None:
        """Let the workers take over when one engine does not keep up, and give way when it would again."""
        with self._deciding:
            if self._opening:
                return
            changes = [self._saturation.worked((ended - begun) / frames, ended) for _ in range(frames)]
            if not any(changes):
                return
            if self._saturation.saturated and self._opened is None:
                self._opening = True
                self._run("opener", self._open_workers)
            else:
                self._choose()

    def _open_workers(self) -> None:
        """Open the workers while the engine alone goes on; it compiles the graph once more."""
        workers: Sequence[FrameClassifier] = ()
        try:
            fill_batches = len(self.cameras) >= BATCH_FRAMES  # one frame of each waits
            workers = self._classifier.workers(batches=fill_batches) or [self._classifier] * 2
        except Exception:
            logger.warning("the cameras go on with one engine, more slowly", exc_info=True)
        with self._deciding:
            for worker in workers:
                self._run("worker", partial(self._work, together=True), worker)
            self._opened = workers
            self._opening = False
            self._saturation.forget(time.monotonic())
            self._choose()

    def _choose(self) -> None:
        workers = (self._opened or ()) if self._saturation.saturated else ()
        self.workers = len(workers) or 1
        batch = max(map(batch_of, workers), default=1)
        self._jobs.activate(workers=len(workers), batch=batch)

    # In the thread of the consumer

    def _handed_out(self, job: Job) -> Prediction | None:
        try:
            return super()._handed_out(job)
        except FrameSourceError as error:  # the model refuses the frames of this camera
            camera = next(camera for camera in self.cameras if camera.intake is job.intake)
            if camera.error is None:
                self._give_up(camera, error)
            return None

    def _give_up(self, camera: _Camera, error: FrameSourceError) -> None:
        logger.warning("%s has ended: %s", camera.name, error.problem)
        camera.error = error
        camera.intake.ledger.end()
        camera.reader.stop()
        self._jobs.finish_camera(camera.name)

    def _final_error(self) -> FrameSourceError | None:
        """Return the error that ends the iteration: it names each camera that ended with one."""
        failed = [(camera.name, camera.error) for camera in self.cameras if camera.error is not None]
        if not failed:
            return None
        (_, first), *rest = failed
        causes = {getattr(error, "cause", None) for _, error in failed}
        final = FrameSourceError(
            "; ".join(f"{name}: {words_of(error)}" for name, error in failed),
            expected=first.expected if isinstance(first, VitedgeError) and not rest else "cameras that go on",
            fix=first.fix if isinstance(first, VitedgeError) and not rest else "",
            cause=causes.pop() if len(causes) == 1 else None,
        )
        final.__cause__ = first
        return final


def _summed(cameras: Sequence[StreamStats]) -> StreamStats:
    """Add the counts of several cameras."""
    counts = [field.name for field in fields(StreamStats) if field.name != "dropped"]
    dropped = {cause: sum(each.dropped[cause] for each in cameras) for cause in DROP_CAUSES}
    return StreamStats(dropped=dropped, **{name: sum(getattr(each, name) for each in cameras) for name in counts})


def _sources(cameras: Mapping[str, StreamSource] | str | Path) -> Mapping[str, StreamSource]:
    """Return the sources by their names, checked."""
    if isinstance(cameras, str | Path) and is_stream_list(Path(cameras)):
        cameras = read_streams(cameras)
    if not isinstance(cameras, Mapping):
        raise UsageError(
            f"the cameras are {type(cameras).__name__}",
            expected='sources by their names, {"door": "rtsp://camera/1", "yard": 0}, or a .streams file',
            fix="stream, for a single source" if isinstance(cameras, str | int) else "",
        )
    if not 1 <= len(cameras) <= MOST_CAMERAS:
        raise UsageError(
            f"there are {counted(len(cameras), 'camera')}",
            expected=f"1 to {MOST_CAMERAS}",
            fix="more go into another process",
        )
    for name in cameras:
        check_name(name)
    seen: dict[int, str] = {}
    for name, source in cameras.items():
        if isinstance(source, FrameSource | Iterator) and seen.setdefault(id(source), name) != name:
            raise UsageError(f"{seen[id(source)]} and {name} are one source", expected="a source for each camera")
    return dict(cameras)


def _by_name(argument: str, given: T | Mapping[str, T] | None, names: Sequence[str]) -> dict[str, T | None]:
    """Return what is given for each camera."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UsageError(
            f"{argument} names {unknown[0]!r:.80}, which is no camera",
            expected=f"names of cameras: {', '.join(names):.200}",
            fix=did_you_mean(str(unknown[0]), names),
        )
    return {name: given.get(name) for name in names}


def _check_limits(max_fps: Mapping[str, float | None]) -> None:
    for name, fps in max_fps.items():
        if fps is not None and not 0 < fps <= HIGHEST_FPS:
            raise UsageError(f"max_fps of {name} is {fps}", expected=f"above 0, and at most {HIGHEST_FPS:g}")
