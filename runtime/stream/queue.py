"""A queue of frames between a reader, workers and a consumer, of whom none waits for one that has gone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitedge.prediction import Picture, Prediction
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame

if TYPE_CHECKING:
    from vitedge.runtime.stream.intake import Intake


@dataclass(eq=False)
class Job:
    """A frame on its way to a prediction.

    Attributes:
        frame: the frame.
        number: its number among the captured frames of its source, from 1.
        intake: counts the frames of its source.
        picture: the frame as the worker classified it; None until then.
        outcome: what the worker made of it: the prediction, or the error; None until then.
    """

    frame: Frame
    number: int
    intake: Intake
    picture: Picture | None = None
    outcome: Prediction | BaseException | None = None


AHEAD_BYTES = 64 << 20
"""Frames that are queued only to save processor time take at most so much memory."""
REFILLED_FRAMES = 2
"""Least room for which a reader is woken whose source can wait: to wake it costs as much as all other Python."""
TOGETHER_FRAMES = 4
"""Jobs for which the consumer is woken once, while the reader is ahead."""
TOGETHER_SECONDS = 0.02
"""Longest time for which the consumer does not see the first of them."""
SIGNAL_SECONDS = 0.1
"""Longest wait of the main thread at a time. It misses a ``stop`` that a signal handler calls just before it waits."""


class JobQueue:
    """Jobs of one reader, for one or more workers and for a consumer who gets them in the order of the frames.

    Any of them may leave at any time. The reader calls ``finish``, with the error that ended it if there was one; the
    consumer gets that error after the jobs before it. ``stop`` ends the queue for all of them. It changes no job and
    takes no lock that is not reentrant, so that a signal handler may call it.

    Args:
        capacity: largest number of jobs that are not consumed; the reader waits for room.
        newest_only: whether a job that no worker has taken gives way to a newer one instead, and workers take a job
            only when the consumer waits for one.
        live: whether jobs also give way until a worker takes the first one, and the reader goes on as soon as it can.
        on_drop: called for each job that gives way.
        ahead: further jobs that may wait, to save time, while all frames take at most ``AHEAD_BYTES``: the reader is
            woken once for all of them, and the consumer, while they wait, once for several outcomes. Outcomes are then
            up to ``TOGETHER_SECONDS`` late, so this is for a source whose frames are there already.
    """

    def __init__(
        self, capacity: int, *, newest_only: bool, live: bool, on_drop: Callable[[], None], ahead: int = 0
    ) -> None:
        self._capacity = self._batched_capacity = capacity
        self._ahead = ahead
        self._unseen = 0
        self._newest_only = newest_only
        self._refilled = 1 if live else REFILLED_FRAMES
        self._on_drop = on_drop
        self._ordered: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._wanted = 0
        self._workers_run = not live
        self._finished = self._failed = self._stopped = self._parked = False
        self._error: BaseException | None = None
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._ready = threading.Condition(self._lock)
        self._wakes: list[Callable[[], object]] = []

    @property
    def stopped(self) -> bool:
        """Return whether somebody called ``stop``."""
        return self._stopped

    def put(self, job: Job) -> bool:
        """Add a job as the reader; False once the queue has ended."""
        with self._lock:
            gives_way = self._gives_way()
            if not gives_way:
                self._room.wait_for(lambda: self._has_room() or self._stopped or self._finished)
            if self._stopped or self._finished:
                return False
            if gives_way and self._waiting:
                self._waiting.pop()
                self._ordered.pop()
                self._on_drop()
            self._ordered.append(job)
            self._waiting.append(job)
            if self._is_wanted():
                self._work.notify()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue as its reader; a consumer who has got what is left then gets ``error``."""
        with self._ready:
            if not self._finished:
                self._finished, self._error = True, error
                self._wake_all()

    def fail(self, error: BaseException) -> None:
        """End the queue as its workers, who cannot begin; the consumer gets the error instead of any job."""
        with self._ready:
            self._failed = self._finished = True
            self._error = error
            self._wake_all()

    def widen(self, capacity: int, batched_capacity: int) -> None:
        """Set the capacity anew.

        Args:
            capacity: as for the queue.
            batched_capacity: a larger one, in force while the frames take at most ``AHEAD_BYTES``.
        """
        with self._room:
            self._capacity, self._batched_capacity = capacity, batched_capacity
            self._room.notify()

    def stop(self) -> None:
        """End the queue for all, at once."""
        with self._ready:
            self._stopped = True
            self._wake_all()

    def park(self) -> None:
        """End the queue at the exit of the interpreter: daemon threads that consume are held, and run no further."""
        with self._ready:
            self._parked = True
            self.stop()

    def forget(self) -> None:
        """Free the frames of a queue that was stopped."""
        with self._ready:
            self._ordered.clear()
            self._waiting.clear()

    def take(self) -> Job | None:
        """Wait for the next job as a worker; None at the end."""
        with self._lock:
            self._workers_run = True
            self._work.wait_for(self._has_work)
            if self._stopped or not self._waiting:
                return None
            self._wanted -= 1
            return self._waiting.popleft()

    def take_more(self, count: int) -> Sequence[Job]:
        """Take further jobs as a worker that has taken one, without waiting; none if fewer than ``count`` wait."""
        with self._work:
            if self._stopped or not 0 < count <= len(self._waiting):
                return ()
            self._wanted -= count
            return [self._waiting.popleft() for _ in range(count)]

    def done(self, *outcomes: tuple[Job, Prediction | BaseException]) -> None:
        """Hand in jobs as a worker, each with its outcome; the consumer wakes once for all of them, at most."""
        with self._lock:
            for job, outcome in outcomes:
                job.outcome = outcome
                self._unseen += 1
            if self._ordered and self._ordered[0].outcome is not None and not self._more_follow():
                self._wake_consumer()

    def discard(self, job: Job) -> None:
        """Hand in a job that shall have no outcome; the consumer waits for the next."""
        with self._ready:
            if job in self._ordered:
                self._ordered.remove(job)
            self._wanted += 1
            self._work.notify()
            self._room.notify()
            self._wake_consumer()

    def get(self) -> Job | None:
        """Wait as the consumer for the next job that has an outcome; None at the end.

        Raises:
            BaseException: the error that the reader finished with, once.
        """
        with self._lock:
            self._want()
            while not self._ready.wait_for(self._has_answer, self._longest_wait()):
                pass
            return self._answer()

    def poll(self, wake: Callable[[], object], *, again: bool) -> tuple[bool, Job | None]:
        """Ask as ``get`` does, without waiting.

        Args:
            wake: called once or more, in any thread, when it is worth asking again.
            again: whether this is not the first time for this job.

        Returns:
            Whether there is an answer, and the job, None at the end.

        Raises:
            BaseException: as for ``get``.
        """
        with self._ready:
            if not again:
                self._want()
            self._wakes.append(wake)  # first, because a signal handler may call stop between two instructions
            if not self._has_answer():
                return False, None
            self._wakes = [each for each in self._wakes if each is not wake]
            return True, self._answer()

    def _has_room(self) -> bool:
        return len(self._ordered) < self._limit()

    def _needs_refill(self) -> bool:
        """Decide whether so few jobs are left that a reader who waits should go on."""
        limit = self._limit()
        refilled = self._refilled if limit > self._refilled else 1
        return len(self._ordered) <= min(self._batched_capacity, limit - refilled)

    def _limit(self) -> int:
        """Return how many jobs may be there: more than the capacity if their frames are small."""
        if not self._ordered:
            return self._capacity
        fitting = AHEAD_BYTES // max(1, _bytes_of(self._ordered[-1].frame))
        return max(self._capacity, min(self._batched_capacity + self._ahead, fitting))

    def _more_follow(self) -> bool:
        """Decide whether an outcome can wait for the consumer, because the workers have enough to do."""
        has_time = self._ahead > 0 and not self._wakes and len(self._waiting) > self._refilled
        return has_time and self._unseen < TOGETHER_FRAMES

    def _longest_wait(self) -> float | None:
        if self._ahead > 0:
            return TOGETHER_SECONDS
        return SIGNAL_SECONDS if threading.current_thread() is threading.main_thread() else None

    def _gives_way(self) -> bool:
        return self._newest_only or not self._workers_run

    def _want(self) -> None:
        self._wanted += 1
        if self._waiting:
            self._work.notify()

    def _is_wanted(self) -> bool:
        return self._wanted > 0 or not self._newest_only

    def _has_work(self) -> bool:
        return self._stopped or (bool(self._waiting) and self._is_wanted()) or (self._finished and not self._waiting)

    def _has_answer(self) -> bool:
        if self._parked and threading.current_thread().daemon:
            return False
        is_ready = bool(self._ordered) and self._ordered[0].outcome is not None
        return self._stopped or self._failed or is_ready or (self._finished and not self._ordered)

    def _answer(self) -> Job | None:
        if self._ordered and not (self._stopped or self._failed):
            job = self._ordered.popleft()
            if self._needs_refill():
                self._room.notify()
            return job
        error, self._error = self._error, None
        if error is not None and not self._stopped:
            raise error
        return None

    def _wake_consumer(self) -> None:
        self._unseen = 0
        self._ready.notify_all()
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def _wake_all(self) -> None:
        self._room.notify_all()
        self._work.notify_all()
        self._wake_consumer()


def _bytes_of(frame: Frame) -> int:
    pixels = frame.pixels
    if isinstance(pixels, YuvPlanes):
        return pixels.y.nbytes + pixels.u.nbytes + pixels.v.nbytes
    return int(getattr(pixels, "nbytes", 0))  # the classifier refuses what is no picture
