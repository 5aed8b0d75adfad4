"""One run of a stream in which something goes wrong at every boundary, drawn by a seed; ``run`` says what is not clean.

A boundary is where the stream calls others or others call it: opening a source, its next frame, closing it, the engine,
``on_state``, the consumer, ``stop`` from another thread and from a signal handler, a fork, and the end of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import FrameSourceError, VitedgeError
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeEngine

SIDE = 8
PICTURE_BYTES = SIDE * SIDE * 3
BOUNDARIES = ("open", "next", "close", "engine", "on_state", "consumer")
ACTIONS = ("nothing", "raise", "sleep", "hang")
CONSUMERS = ("closes", "forgets", "raises", "reads on", "in a daemon thread", "asynchronous", "cancelled")
ENDINGS = ("nothing", "stop in a thread", "stop in a signal handler", "fork", "exit")
SOURCES = ("frames", "program")
ERRORS = (
    OSError("chaos"),
    ValueError("chaos"),
    MemoryError("chaos"),
    FrameSourceError("chaos", cause="network"),
    FrameSourceError("chaos", cause="unplugged"),
    FrameSourceError("chaos", cause="auth"),
)
TIMEOUTS = SourceOptions(open_timeout=0.4, read_timeout=0.3, stall_timeout=0.1)
STOP_AFTER = 2.0
"""Seconds after which another thread stops any stream."""
ANSWERS_WITHIN = 5.0
"""Longest ``stop`` and ``close``, on a machine that is busy."""
THREADS_END_WITHIN = 15.0
MOST_AT_END = 16
"""Frames that may be under way when a stream ends: more were lost on the way."""


class ChaosError(Exception):
    """What a consumer raises."""


@dataclass(frozen=True)
class Plan:
    """What happens in a run.

    Attributes:
        source: one of ``SOURCES``.
        live: whether the source is live.
        passed_open: whether the stream gets the source open, and must not close it.
        frames: frames of a connection.
        policy: of the stream.
        reconnect: of the stream.
        max_age_ms: of the stream.
        actions: what each boundary does, one of ``ACTIONS``, at which of its calls.
        error: what a boundary raises.
        consumer: one of ``CONSUMERS``.
        predictions: number of predictions after which the consumer does so.
        ending: one of ``ENDINGS``.
        after: seconds before the ending.
        seed: of what is drawn later.
    """

    source: str
    live: bool
    passed_open: bool
    frames: int
    policy: str | None
    reconnect: bool | Reconnect | None
    max_age_ms: float | None
    actions: dict[str, tuple[str, int]]
    error: Exception
    consumer: str
    predictions: int
    ending: str
    after: float
    seed: int


def drawn(seed: int) -> Plan:
    """Draw a plan; most boundaries do nothing, so that the others are reached."""
    random = Random(seed)
    actions = {
        each: (random.choice(ACTIONS) if random.random() < 0.3 else "nothing", random.choice((0, 0, 1, 2, 5)))
        for each in BOUNDARIES
    }
    return Plan(
        source=random.choice(SOURCES),
        live=random.random() < 0.7,
        passed_open=random.random() < 0.2,
        frames=random.choice((0, 1, 3, 20, 1000)),
        policy=random.choice((None, "latest", "every")),
        reconnect=random.choice((None, None, True, False, Reconnect(0.01, 0.05), Reconnect(0.01, 0.05, attempts=2))),
        max_age_ms=random.choice((None, None, 50.0)),
        actions=actions,
        error=random.choice(ERRORS),
        consumer=random.choice(CONSUMERS),
        predictions=random.choice((0, 1, 3, 10, 100)),
        ending=random.choice(ENDINGS),
        after=random.choice((0.0, 0.02, 0.1, 0.3)),
        seed=seed,
    )


@dataclass
class Boundaries:
    """Does at each boundary what the plan says.

    Attributes:
        plan: the plan.
        released: set to end every hang.
        calls: number of calls by boundary.
        opened: sources that were opened.
    """

    plan: Plan
    released: threading.Event = field(default_factory=threading.Event)
    calls: dict[str, int] = field(default_factory=dict)
    opened: list[ChaosSource] = field(default_factory=list)

    def reach(self, boundary: str) -> None:
        """Raise, sleep or hang, if it is time for it."""
        action, at = self.plan.actions[boundary]
        called = self.calls[boundary] = self.calls.get(boundary, -1) + 1
        if called < at or (called > at and action != "raise"):
            return
        if action == "raise":
            raise self.plan.error
        if action == "sleep":
            self.released.wait(0.15)
        elif action == "hang":
            self.released.wait()

    def open(self) -> FrameSource:
        """Open a source."""
        self.reach("open")
        source = (ProgramSource if self.plan.source == "program" else ChaosSource)(self)
        self.opened.append(source)
        return source


class ChaosSource(FrameSource):
    """Frames of one colour."""

    name = "the chaotic source"

    def __init__(self, boundaries: Boundaries) -> None:
        self.live = boundaries.plan.live
        self.fps = 500.0
        self.closed = threading.Event()
        self._boundaries = boundaries

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._boundaries.plan.frames):
            self._boundaries.reach("next")
            if self.closed.wait(0.002 if self.live else 0.0):
                return
            yield Frame(self._picture(index), index)
        if self.live:
            raise FrameSourceError("the chaotic source has ended", cause="eof")

    def close(self) -> None:
        """End the frames."""
        self.closed.set()
        self._boundaries.reach("close")

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return np.full((SIDE, SIDE, 3), index % 256, dtype=np.uint8)


class ProgramSource(ChaosSource):
    """Frames that a program writes, which is killed."""

    def __init__(self, boundaries: Boundaries) -> None:
        super().__init__(boundaries)
        self._program = subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE)
        self._kill_at = Random(boundaries.plan.seed).choice((1, 5, 50))

    def close(self) -> None:
        """Kill the program."""
        self.closed.set()
        self._program.kill()
        self._program.wait()
        self._boundaries.reach("close")

    def _picture(self, index: int) -> NDArray[np.uint8]:
        if index == self._kill_at:
            self._program.kill()
        assert self._program.stdout is not None
        data = os.read(self._program.stdout.fileno(), PICTURE_BYTES)
        if len(data) < PICTURE_BYTES:
            raise FrameSourceError("the program was killed", cause="unplugged")
        return np.frombuffer(data, dtype=np.uint8).reshape(SIDE, SIDE, 3)


class Run:
    """One run.

    Attributes:
        problems: what was not clean.

    Args:
        plan: what happens.
    """

    def __init__(self, plan: Plan) -> None:
        self.problems: list[str] = []
        self._plan = plan
        self._boundaries = Boundaries(plan)
        self._consumed = threading.Event()

    def go(self) -> Stream | None:
        """Run; returns a stream that is left open for the end of the program."""
        stream = self._stream()
        if stream is None:
            self._boundaries.released.set()
            return None
        ending = threading.Thread(target=self._end, args=(stream,), daemon=True)
        if self._plan.ending == "stop in a signal handler":
            signal.signal(signal.SIGALRM, lambda *_: self._timed("stop", stream.stop))
            signal.setitimer(signal.ITIMER_REAL, max(self._plan.after, 1e-3))
        if self._plan.ending == "exit":
            threading.Thread(target=self._consume, args=(stream,), daemon=True).start()
            time.sleep(self._plan.after)
            return stream
        ending.start()
        self._consume(stream)
        self._consumed.set()
        ending.join()
        self._check(stream)
        return None

    def _stream(self) -> Stream | None:
        def logits(_: NDArray[np.uint8]) -> list[float]:
            self._boundaries.reach("engine")
            return [1.0, 0.0]

        engine = FakeEngine(logits, input_size=(SIDE, SIDE))
        classifier = Classifier(engine, Preprocessing((SIDE, SIDE), (SIDE, SIDE)), ("dark", "bright"))
        releasing = threading.Timer(STOP_AFTER, self._boundaries.released.set)  # opening at the call waits for ever
        releasing.daemon = True
        releasing.start()
        try:
            source: Any = self._boundaries.open() if self._plan.passed_open else self._boundaries.open
            return Stream(
                classifier,
                source,
                policy=self._plan.policy,  # type: ignore[arg-type]
                reconnect=self._plan.reconnect,
                max_age_ms=self._plan.max_age_ms,
                options=TIMEOUTS,
                on_state=lambda _: self._boundaries.reach("on_state"),
            )
        except Exception as error:  # noqa: BLE001 - judged here
            self._judge(error)
            return None
        finally:
            releasing.cancel()

    def _judge(self, error: BaseException) -> None:
        """Note an error that nobody expects: neither vitedge's own nor what this run raises."""
        expected = (VitedgeError, ChaosError, type(self._plan.error), asyncio.CancelledError)
        if not isinstance(error, expected):
            self.problems.append(f"{type(error).__name__}: {error}")

    def _timed(self, what: str, call: Any) -> None:
        begun = time.monotonic()
        try:
            call()
        except Exception as error:  # noqa: BLE001 - judged here
            self._judge(error)
        took = time.monotonic() - begun
        if took > ANSWERS_WITHIN:
            self.problems.append(f"{what} took {took:.1f} s")

    def _end(self, stream: Stream) -> None:
        """Do what the ending says; at the latest, stop the stream and end every hang."""
        if not self._consumed.wait(self._plan.after):
            if self._plan.ending == "stop in a thread":
                self._timed("stop", stream.stop)
            elif self._plan.ending == "fork":
                self._fork(stream)
        if not self._consumed.wait(STOP_AFTER):
            self._timed("stop", stream.stop)
        if not self._consumed.wait(ANSWERS_WITHIN):
            if "hang" not in (self._plan.actions["engine"][0], self._plan.actions["consumer"][0]):
                self.problems.append("the consumer waits after stop")
            self._boundaries.released.set()
        if not self._consumed.wait(ANSWERS_WITHIN):
            self.problems.append("the consumer waits though nothing hangs")

    def _fork(self, stream: Stream) -> None:
        """Use the stream in a child, which must get an error and end."""
        child = os.fork()
        if child == 0:
            try:
                next(stream)
            except VitedgeError:
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the code says so
                os._exit(2)
            os._exit(3)
        deadline = time.monotonic() + ANSWERS_WITHIN
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self.problems.append("the forked child hangs")
        elif ended[1] != 0:
            self.problems.append(f"the forked child ended with {os.waitstatus_to_exitcode(ended[1])}")

    def _consume(self, stream: Stream) -> None:
        consumer = self._plan.consumer
        try:
            if consumer == "in a daemon thread":
                thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
                thread.start()
                thread.join(STOP_AFTER + 3 * ANSWERS_WITHIN)
            elif consumer in ("asynchronous", "cancelled"):
                asyncio.run(self._read_async(stream))
            else:
                self._read(stream)
        except BaseException as error:  # noqa: BLE001 - judged here
            self._judge(error)

    def _read(self, stream: Stream) -> None:
        try:
            self._numbers(stream)
        except BaseException as error:  # noqa: BLE001 - judged here
            self._judge(error)
        if self._plan.consumer == "closes":
            self._timed("close", stream.close)

    def _numbers(self, stream: Stream) -> None:
        last = -1
        for count, prediction in enumerate(stream):
            self._boundaries.reach("consumer")
            if prediction.frame <= last:
                self.problems.append(f"frame {prediction.frame} came after {last}")
            last = prediction.frame
            if count + 1 >= self._plan.predictions and self._plan.consumer != "reads on":
                if self._plan.consumer == "raises":
                    raise ChaosError
                return

    async def _read_async(self, stream: Stream) -> None:
        reading = asyncio.create_task(self._numbers_async(stream))
        if self._plan.consumer == "cancelled":
            await asyncio.sleep(0.05)
            reading.cancel()
        await reading

    async def _numbers_async(self, stream: Stream) -> None:
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            count = 0
            async for _ in stream:
                count += 1
                if count >= self._plan.predictions:
                    return

    def _check(self, stream: Stream) -> None:
        """Close the stream, end every hang, and look at what is left."""
        self._timed("close", stream.close)
        stats = stream.stats
        dropped = sum(stats.dropped.values())
        if stats.captured != stats.predicted + dropped or not 0 <= stats.dropped["at_end"] <= MOST_AT_END:
            self.problems.append(f"the counts do not fit: {stats}")
        self._boundaries.released.set()
        del stream
        gc.collect()
        self._check_threads()
        if not self._plan.passed_open and not all(each.closed.is_set() for each in self._boundaries.opened):
            self.problems.append(f"of {len(self._boundaries.opened)} sources some are open")
        if self._plan.passed_open and any(each.closed.is_set() for each in self._boundaries.opened):
            self.problems.append("the caller's source was closed")
        for each in self._boundaries.opened:
            with contextlib.suppress(Exception):
                each.close()

    def _check_threads(self) -> None:
        deadline = time.monotonic() + THREADS_END_WITHIN
        while (left := vitedge_threads()) and time.monotonic() < deadline:
            time.sleep(0.01)
        if left:
            self.problems.append(f"threads are left: {left}")


def vitedge_threads() -> list[str]:
    """Return the names of the threads of streams."""
    return [each.name for each in threading.enumerate() if each.name.startswith("vitedge")]
