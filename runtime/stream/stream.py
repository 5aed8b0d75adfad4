"""Frames in, predictions out: the threads between a source and the code that consumes its predictions.

    latest   grabber ─▶ mailbox of one, newest frame ─▶ consumer: preprocess, infer
    every    grabber ─▶ queue ─▶ lanes, a thread each: preprocess, infer ─▶ consumer, in the order of the frames

Under ``latest`` a frame is prepared when the engine is free for it, in the thread that iterates, so that its prediction
is as young as it can be. Under ``every`` nothing is lost, and what counts is how many frames come through in a second:
lanes that each do all of a frame on one core waste less of the processor than stages that pass it on.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import ChannelOrder
from vitedge.errors import FrameSourceError, UsageError, did_you_mean
from vitedge.prediction import Candidate, Prediction, StageTimes
from vitedge.runtime.sources.base import Frame, FrameSource, Image
from vitedge.runtime.sources.open import Source, open_source
from vitedge.runtime.stream.queue import Letter, Mailbox, pump

logger = logging.getLogger("vitedge")

Policy = Literal["latest", "every"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
QUEUED_FRAMES = 2
"""Frames that wait for their turn under ``every``, beside the one in each lane."""
LANES_PAY_FROM = 200
"""Length of a stream from which lanes pay: opening them compiles the graph once more."""
STALL_SECONDS = 15.0
JOIN_SECONDS = 5.0


class Stages(Protocol):
    """What a stream needs of a classifier: its stages, one at a time.

    Attributes:
        threshold: abstain from predictions with a lower score.
    """

    threshold: float

    def prepare(self, image: Image, *, order: ChannelOrder) -> NDArray[np.uint8]:
        """An ``H×W×3`` frame as the network's ``h×w×3`` input; may run in another thread than ``infer``."""

    def infer(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(classes,)`` logits of a prepared frame."""

    def rank(self, logits: NDArray[np.float32], topk: int) -> tuple[Candidate, ...]:
        """The best classes, best first."""

    def lanes(self) -> Sequence[Stages]:
        """Stages for a thread each, which together classify more frames a second; empty where there are none."""


@dataclass(frozen=True)
class Classified:
    """A frame that went through the stages.

    Attributes:
        frame: where it came from; BGR.
        topk: its best classes, best first.
        stages_ms: where the time went, without waiting.
        abstained: whether the best score is below the threshold.
    """

    frame: Frame
    topk: tuple[Candidate, ...]
    stages_ms: StageTimes
    abstained: bool


@dataclass(frozen=True)
class _Lane:
    """Stages, and whose turn it is in them: the time of a stage begins with the turn, not with the wait for it."""

    stages: Stages
    preparing: threading.Lock = field(default_factory=threading.Lock)
    inferring: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Job:
    """A frame for any lane, and where the consumer, who takes the jobs in their order, finds what became of it."""

    frame: Frame
    outcome: Mailbox[Classified] = field(default_factory=lambda: Mailbox(1, replace=False))


def stream(
    classifier: Stages,
    source: Source,
    *,
    policy: Policy | None = None,
    max_frames: int | None = None,
    topk: int = 5,
) -> Generator[Prediction, None, None]:
    """Classify the frames of a source.

    The source is opened, and its errors are raised, at the call; threads start with the first prediction that is
    asked for and are gone when the generator ends, is closed or is garbage-collected. A source that was passed in open
    stays open.

    Args:
        classifier: what classifies; other calls to it go on, and take turns with the stream where they share an engine.
        source: what ``vitedge.runtime.sources.open.open_source`` takes.
        policy: ``latest`` classifies the newest frame and counts those it passes over; a video file is then played
            at its own speed, as a camera would. ``every`` classifies all frames and makes the source wait. By default
            ``latest`` for cameras and network streams and ``every`` for files and iterables.
        max_frames: end after so many predictions.
        topk: candidates of each prediction.

    Yields:
        A prediction per classified frame, in the order of the frames, each with its image.

    Raises:
        UsageError: unknown policy, or a ``max_frames`` or ``topk`` below 1.
        FrameSourceError: the source does not open, or, after the good frames were classified, stopped delivering.
        EngineError: the engine failed.
    """
    if policy is not None and policy not in POLICIES:
        raise UsageError(
            f"unknown policy {policy!r}",
            expected=f"one of {', '.join(POLICIES)}",
            fix=did_you_mean(str(policy), POLICIES),
        )
    for name, number in (("max_frames", max_frames), ("topk", topk)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}", expected="1 or more")
    opened = open_source(source)
    chosen = policy or ("latest" if opened.live else "every")
    return _predictions(classifier, opened, chosen, max_frames, topk, owned=opened is not source)


def _predictions(
    classifier: Stages, source: FrameSource, policy: Policy, max_frames: int | None, topk: int, *, owned: bool
) -> Generator[Prediction, None, None]:
    with _Threads() as threads:
        frames = _grabbed(source, threads.stopping, paced=policy == "latest" and not source.live, owned=owned)
        if policy == "latest":
            letters = _latest(_Lane(classifier), source, frames, threads, topk)
        else:
            letters = _every(_lanes(classifier, source.length, max_frames), source, frames, threads, topk)
        for letter in itertools.islice(letters, max_frames):
            yield _prediction(letter)


def _latest(
    lane: _Lane, source: FrameSource, frames: Iterator[Frame], threads: _Threads, topk: int
) -> Iterator[Letter[Classified]]:
    newest: Mailbox[Frame] = threads.mailbox(1, replace=True)
    threads.start("grab", pump, frames, newest)
    for letter in _letters(newest, source):
        yield Letter(_classify(lane, letter.item, topk), letter.passed_over)


def _every(
    lanes: Sequence[_Lane], source: FrameSource, frames: Iterator[Frame], threads: _Threads, topk: int
) -> Iterator[Letter[Classified]]:
    """Each job is in two queues: the lanes take it from one, as they become free, and the consumer from the other."""
    places = len(lanes) + QUEUED_FRAMES
    waiting: Mailbox[_Job] = threads.mailbox(places, replace=False)
    ordered: Mailbox[_Job] = threads.mailbox(places, replace=False)
    for lane in lanes:
        threads.start("lane", _work, lane, waiting, topk)
    threads.start("grab", pump, _jobs(frames, waiting), ordered)
    for job in _letters(ordered, source):
        letter = job.item.outcome.get()
        if letter is not None:
            yield letter


def _lanes(classifier: Stages, length: int | None, max_frames: int | None) -> Sequence[_Lane]:
    """The lanes of a stream of so many frames; where there are none, two threads take turns in the classifier's stages.

    In the second case one of them prepares a frame while the other infers.
    """
    limits = [limit for limit in (length, max_frames) if limit is not None]
    opened = classifier.lanes() if min(limits, default=LANES_PAY_FROM) >= LANES_PAY_FROM else ()
    return [_Lane(stages) for stages in opened] or [_Lane(classifier)] * 2


def _jobs(frames: Iterator[Frame], waiting: Mailbox[_Job]) -> Iterator[_Job]:
    """Every frame as a job that the lanes have been given; runs in the grabber."""
    for frame in frames:
        job = _Job(frame)
        if not waiting.put(job):
            return
        yield job


def _work(lane: _Lane, waiting: Mailbox[_Job], topk: int) -> None:
    """What the thread of a lane runs; an error belongs to its frame, and the consumer meets it there."""
    for job in waiting:
        pump((_classify(lane, frame, topk) for frame in (job.frame,)), job.outcome)


def _letters(mailbox: Mailbox[Any], source: FrameSource) -> Iterator[Letter[Any]]:
    """What arrives, with a limit on the wait where the source is live: a driver may block for ever."""
    timeout = STALL_SECONDS if source.live else None
    try:
        while (letter := mailbox.get(timeout)) is not None:
            yield letter
    except TimeoutError as error:
        raise FrameSourceError(
            f"{source.name} delivered nothing for {STALL_SECONDS:g} s",
            expected="a camera or stream that goes on",
            fix="check the cable, the power and the network, then open it again",
        ) from error


def _grabbed(source: FrameSource, stopping: threading.Event, *, paced: bool, owned: bool) -> Iterator[Frame]:
    """The frames, at the speed of the source; runs in the grabber, which also closes what the stream opened."""
    try:
        yield from _paced(source, source.fps, stopping) if paced and source.fps else source
    finally:
        if owned:
            source.close()


def _paced(frames: Iterable[Frame], fps: float, stopping: threading.Event) -> Iterator[Frame]:
    """Each frame when a camera of that frame rate would have taken it."""
    begun = 0.0
    for count, frame in enumerate(frames):
        begun = begun or time.monotonic()
        if stopping.wait(max(0.0, begun + count / fps - time.monotonic())):
            return
        yield replace(frame, captured_at=time.time(), captured_ns=time.monotonic_ns())


def _classify(lane: _Lane, frame: Frame, topk: int) -> Classified:
    stages = lane.stages
    with lane.preparing:
        begun = time.perf_counter_ns()
        pixels = stages.prepare(frame.image, order=frame.order)
        preparing = time.perf_counter_ns() - begun
    if frame.order == "RGB":
        frame = replace(frame, image=np.ascontiguousarray(frame.image[..., ::-1]), order="BGR")
    with lane.inferring:
        begun = time.perf_counter_ns()
        logits = stages.infer(pixels)
        inferred = time.perf_counter_ns()
    candidates = stages.rank(logits, topk)
    ranking = time.perf_counter_ns() - inferred
    times = StageTimes(preparing / 1e6, (inferred - begun) / 1e6, ranking / 1e6)
    return Classified(frame, candidates, times, abstained=candidates[0].score < stages.threshold)


def _prediction(letter: Letter[Classified]) -> Prediction:
    classified, frame = letter.item, letter.item.frame
    return Prediction(
        topk=classified.topk,
        frame=frame.index,
        captured_at=frame.captured_at,
        age_ms=(time.monotonic_ns() - frame.captured_ns) / 1e6,
        stages_ms=classified.stages_ms,
        dropped=letter.passed_over,
        image=frame.image,
        file=frame.file,
        abstained=classified.abstained,
    )


class _Threads:
    """The threads of one stream and the mailboxes between them; leaving the context ends and joins them."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._mailboxes: list[Mailbox[Any]] = []
        self._threads: list[threading.Thread] = []

    def mailbox(self, capacity: int, *, replace: bool) -> Mailbox[Any]:
        """A mailbox that is stopped, with all who wait at it, when the stream ends."""
        mailbox: Mailbox[Any] = Mailbox(capacity, replace=replace)
        self._mailboxes.append(mailbox)
        return mailbox

    def start(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        """Have a thread do some work that ends once the mailboxes are stopped."""
        thread = threading.Thread(target=work, args=arguments, name=f"vitedge-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def __enter__(self) -> _Threads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        for mailbox in self._mailboxes:
            mailbox.stop()
        for thread in self._threads:
            if thread is threading.current_thread():  # the garbage collector closes a stream wherever it happens to run
                continue
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                logger.warning("%s still waits; it ends when its source or engine answers", thread.name)
