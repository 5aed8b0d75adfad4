"""``Pipeline``: what the threads of a stream share, from the frames of its sources to the predictions it hands out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from vitedge.prediction import Prediction
from vitedge.runtime.stream.intake import Intake
from vitedge.runtime.stream.queue import Job, JobQueue
from vitedge.runtime.stream.reader import Reader
from vitedge.runtime.stream.states import StateCalls, StateChange
from vitedge.runtime.stream.workers import age_ms, completed
from vitedge.runtime.system.owned import start_daemon
from vitedge.safety.escape import terminal

logger = logging.getLogger("vitedge")

POLL_SECONDS = 0.005


class Pipeline(ABC):
    """The threads of a stream and the queue between them. It refers to no stream, so that a forgotten one is collected.

    Args:
        jobs: the queue.
        max_frames: number of predictions after which to end.
        calls: reports the changes of state; None for nobody.
    """

    def __init__(self, jobs: JobQueue, *, max_frames: int | None, calls: StateCalls | None) -> None:
        self._jobs = jobs
        self._max_frames = max_frames
        self._calls = calls
        self._starting = threading.RLock()
        self._started = False
        self._workers: list[threading.Thread] = []
        self._predicted = 0
        self._warned = False

    @property
    @abstractmethod
    def readers(self) -> Sequence[Reader]:
        """Return the readers of all sources."""

    @property
    @abstractmethod
    def intakes(self) -> Sequence[Intake]:
        """Return the intakes of all sources."""

    @abstractmethod
    def _run_workers(self) -> None:
        """Open the workers and work; runs in the first worker thread."""

    def next(self) -> Prediction | None:
        """Wait for the next prediction; None at the end.

        Raises:
            BaseException: the error of the source, the engine or the model.
        """
        self._start()
        while (job := self._jobs.get()) is not None:
            prediction = self._handed_out(job)
            if prediction is not None:
                return prediction
        return None

    async def next_async(self) -> Prediction | None:
        """Wait as ``next`` does, without blocking the event loop."""
        self._start()
        loop = asyncio.get_running_loop()
        awake = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(awake.set)

        again = False
        while True:
            awake.clear()
            is_answered, job = self._jobs.poll(wake, again=again)
            again = not is_answered
            if not is_answered:
                await awake.wait()
            elif job is None:
                return None
            elif (prediction := self._handed_out(job)) is not None:
                return prediction

    @property
    def stopped(self) -> bool:
        """Return whether everything was told to end."""
        return self._jobs.stopped

    def stop(self) -> None:
        """End everything, and return at once."""
        for intake in self.intakes:
            intake.ledger.end()
        self._jobs.stop()
        for reader in self.readers:
            reader.stop()

    def park(self) -> None:
        """End everything at the exit of the interpreter, but hold daemon threads that consume: they run no further."""
        self._jobs.park()
        self.stop()

    def threads(self) -> list[threading.Thread]:
        """Return the threads that still run, except for the one that asks."""
        calls = [self._calls.thread] if self._calls is not None else []
        reading = [thread for reader in self.readers for thread in reader.threads()]
        threads = [*reading, *self._workers, *calls]
        return [each for each in threads if each.is_alive() and each is not threading.current_thread()]

    def workers_left_behind(self) -> int:
        """Return the number of workers that still run although everything was told to end."""
        return sum(each.is_alive() for each in self._workers) if self._jobs.stopped else 0

    def join(self, seconds: float) -> None:
        """Wait for the threads to end, and warn of threads that are left behind."""
        until = time.monotonic() + seconds
        for thread in self.threads():
            thread.join(max(0.0, until - time.monotonic()))
        self._leave()

    async def join_async(self, seconds: float) -> None:
        """Wait as ``join`` does, without blocking the event loop."""
        until = time.monotonic() + seconds
        while self.threads() and time.monotonic() < until:
            await asyncio.sleep(POLL_SECONDS)
        self._leave()

    def _leave(self) -> None:
        self._jobs.forget()
        rest = sorted({thread.name for thread in self.threads()})
        if rest and not self._warned:
            self._warned = True
            sources = ", ".join(terminal(reader.name) for reader in self.readers)
            logger.warning("%s: %s left behind until the source, engine or on_state answers", sources, ", ".join(rest))

    def _start(self) -> None:
        if self._started:
            return
        with self._starting:
            if self._started or self._jobs.stopped:
                return
            self._started = True
            for reader in self.readers:
                reader.start()
            self._run("worker", self._run_workers)

    def _run(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        thread = start_daemon(f"vitedge-{name}", target, *arguments, uses_engine=True)
        self._workers.append(thread)

    def _handed_out(self, job: Job) -> Prediction | None:
        """Count the prediction of a job and complete it; None if the application must not get it.

        Raises:
            BaseException: the error of the job.
        """
        outcome = job.outcome
        if not isinstance(outcome, Prediction):
            raise outcome or AssertionError("a job without outcome was consumed")
        age = age_ms(job.frame)
        if job.intake.refuses(age):
            return None
        dropped = job.intake.ledger.predict(job.number)
        if dropped is None:
            return None
        prediction = completed(outcome, job, age=age, dropped=dropped)
        self._predicted += 1
        if self._predicted == self._max_frames:
            self.stop()
        return prediction

    def _report(self, change: StateChange) -> None:
        if self._calls is not None:
            self._calls.put(change)
