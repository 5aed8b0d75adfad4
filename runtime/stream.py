"""Frames in, predictions out: the threads between a source and the code that consumes its predictions.

    latest   grabber ─▶ mailbox of one, newest frame ─▶ consumer: preprocess, infer
    every    grabber ─▶ queue ─▶ preprocess ─▶ queue ─▶ consumer: infer

Under ``latest`` a frame is prepared when the engine is free for it, so that its prediction is as young as it can be;
under ``every`` decoding, preprocessing and inference overlap and nothing is lost. Inference runs in the thread that
iterates.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import FrameSourceError, UsageError, did_you_mean
from vitedge.prediction import Candidate, Prediction, StageTimes
from vitedge.preprocessing import ChannelOrder
from vitedge.runtime.frames import Frame, FrameSource, Image
from vitedge.runtime.mailbox import Letter, Mailbox, pump
from vitedge.runtime.sources import Source, open_source

logger = logging.getLogger("vitedge")

Policy = Literal["latest", "every"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
QUEUED_FRAMES = 2
STALL_SECONDS = 15.0
JOIN_SECONDS = 5.0


class Stages(Protocol):
    """What a stream needs of a classifier: its stages, one at a time."""

    def prepare(self, image: Image, *, order: ChannelOrder) -> NDArray[np.uint8]:
        """An ``H×W×3`` frame as the network's ``h×w×3`` input; may run in another thread than ``infer``."""

    def infer(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(classes,)`` logits of a prepared frame."""

    def rank(self, logits: NDArray[np.float32], topk: int) -> tuple[Candidate, ...]:
        """The best classes, best first."""


@dataclass(frozen=True)
class Prepared:
    """A frame that is ready for the engine.

    Attributes:
        frame: where it came from; BGR.
        pixels: the network's input, ``h×w×3`` uint8.
        milliseconds: what preparing it took.
    """

    frame: Frame
    pixels: NDArray[np.uint8]
    milliseconds: float


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
        classifier: what classifies; other calls to it take turns with the stream.
        source: what ``vitedge.runtime.sources.open_source`` takes.
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
    deliver = _latest if policy == "latest" else _every
    with _Threads() as threads:
        frames = _grabbed(source, threads.stopping, paced=policy == "latest" and not source.live, owned=owned)
        for letter in itertools.islice(deliver(classifier, source, frames, threads), max_frames):
            yield _predict(classifier, letter, topk)


def _latest(
    classifier: Stages, source: FrameSource, frames: Iterator[Frame], threads: _Threads
) -> Iterator[Letter[Prepared]]:
    newest: Mailbox[Frame] = Mailbox(1, replace=True)
    threads.start("grab", frames, newest)
    for letter in _letters(newest, source):
        yield Letter(_prepare(classifier, letter.item), letter.passed_over)


def _every(
    classifier: Stages, source: FrameSource, frames: Iterator[Frame], threads: _Threads
) -> Iterator[Letter[Prepared]]:
    grabbed: Mailbox[Frame] = Mailbox(QUEUED_FRAMES, replace=False)
    prepared: Mailbox[Prepared] = Mailbox(QUEUED_FRAMES, replace=False)
    threads.start("grab", frames, grabbed)
    threads.start("prepare", (_prepare(classifier, frame) for frame in grabbed), prepared)
    return _letters(prepared, source)


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


def _prepare(classifier: Stages, frame: Frame) -> Prepared:
    begun = time.perf_counter_ns()
    pixels = classifier.prepare(frame.image, order=frame.order)
    milliseconds = (time.perf_counter_ns() - begun) / 1e6
    if frame.order == "RGB":
        frame = replace(frame, image=np.ascontiguousarray(frame.image[..., ::-1]), order="BGR")
    return Prepared(frame, pixels, milliseconds)


def _predict(classifier: Stages, letter: Letter[Prepared], topk: int) -> Prediction:
    prepared, frame = letter.item, letter.item.frame
    begun = time.perf_counter_ns()
    logits = classifier.infer(prepared.pixels)
    inferred = time.perf_counter_ns()
    candidates = classifier.rank(logits, topk)
    done = time.perf_counter_ns()
    return Prediction(
        topk=candidates,
        frame=frame.index,
        captured_at=frame.captured_at,
        age_ms=(time.monotonic_ns() - frame.captured_ns) / 1e6,
        stages_ms=StageTimes(prepared.milliseconds, (inferred - begun) / 1e6, (done - inferred) / 1e6),
        dropped=letter.passed_over,
        image=frame.image,
        file=frame.file,
    )


class _Threads:
    """The threads of one stream and the mailboxes that they fill; leaving the context ends and joins them."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._mailboxes: list[Mailbox[Any]] = []
        self._threads: list[threading.Thread] = []

    def start(self, name: str, items: Iterable[Any], mailbox: Mailbox[Any]) -> None:
        """Have a thread put the items into the mailbox."""
        self._mailboxes.append(mailbox)
        thread = threading.Thread(target=pump, args=(items, mailbox), name=f"vitedge-{name}", daemon=True)
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
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                logger.warning("%s still waits for its source; it ends when the source answers", thread.name)
