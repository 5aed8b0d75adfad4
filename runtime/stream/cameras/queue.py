"""A queue of the frames of several cameras, whose workers take them in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from vitedge.runtime.stream.cameras.turns import Turns
from vitedge.runtime.stream.queue import Job, JobQueue
from vitedge.runtime.stream.workers import age_ms


class CameraQueue(JobQueue):
    """Jobs of several cameras; the consumer gets them in the order in which workers took them.

    One job of each camera waits. The camera that has waited longest since its last turn is next. There are two kinds of
    workers, of which one at a time takes jobs: one alone, who begins when the consumer waits, so that predictions are
    fresh; or several together, who also work ahead, so that the processors are never idle. One of several waits for a
    full batch while all others compute.

    Args:
        max_fps: most jobs a second of each camera, by name; None for no limit.
        final_error: returns what the consumer gets after the last job, if anything.
    """

    def __init__(self, max_fps: Mapping[str, float | None], final_error: Callable[[], BaseException | None]) -> None:
        super().__init__(0, newest_only=True, live=True, on_drop=_nothing)
        self._turns: Turns[Job] = Turns(max_fps)
        self._unfinished = set(max_fps)
        self._final_error = final_error
        self._workers = 0
        self._batch = 1
        self._idle = 0
        self._work_together = threading.Condition(self._lock)
        self._rooms = {name: threading.Condition(self._lock) for name in max_fps}

    def offer(self, name: str, job: Job) -> bool:
        """Put the newest job of a camera in the place of an older one, and return at once; False at its end."""
        with self._room:
            if self._is_over(name):
                return False
            now = time.monotonic()
            older = self._turns.replace(name, job)
            if older is not None:
                older.intake.ledger.drop("newer")
            elif self._turns.is_due(name, now):
                self._add(name, job, now)
            else:
                job.intake.ledger.drop("max_fps")
            return True

    def put_next(self, name: str, job: Job) -> bool:
        """Wait until the last job of a camera was taken and its next one is due, then put it; False at its end.

        Nothing is lost: this is for files.
        """
        room = self._rooms[name]
        with room:
            while not self._is_over(name):
                now = time.monotonic()
                early = self._turns.early(name, now)
                if self._turns.is_waiting(name):
                    room.wait()
                elif early:
                    room.wait(min(early, threading.TIMEOUT_MAX))
                else:
                    self._add(name, job, now)
                    return True
            return False

    def finish_camera(self, name: str) -> None:
        """End one camera; its last job is still taken."""
        with self._room:
            self._unfinished.discard(name)
            self._rooms[name].notify()
            self._finish_if_over()
            self._wake_worker()

    def activate(self, *, workers: int, batch: int) -> None:
        """Let the other kind of workers take the jobs from now on.

        Args:
            workers: number of those who work together, and of the turns that they may take before the consumer waits
                for them; 0 for the one who works alone.
            batch: jobs that they may take in one turn, while the consumer keeps up.
        """
        with self._room:
            self._workers, self._batch = workers, batch
            self._active.notify_all()

    def take_turn(self, *, together: bool) -> Job | None:
        """Wait for the next job as a worker of one kind; None at the end. Jobs that are too old are dropped."""
        condition = self._work_together if together else self._work
        with condition:
            self._idle += together
            try:
                while True:
                    condition.wait_for(lambda: self._ends() or (self._are_together == together and self._has_turn()))
                    if self._ends():
                        return None
                    job = self._next()
                    self._finish_if_over()
                    if job is not None:
                        self._wanted -= 1
                        self._ordered.append(job)
                        return job
            finally:
                self._idle -= together

    def take_more(self, count: int) -> Sequence[Job]:
        """Take the jobs of the next turns, too, without waiting; none if fewer than ``count`` wait.

        A consumer who is behind gets fresher predictions instead, from one job at a time.
        """
        with self._work:
            if self._ends() or self._is_behind() or not 0 < count <= len(self._turns):
                return ()
            jobs = [job for job in (self._next() for _ in range(count)) if job is not None]
            self._finish_if_over()
            self._wanted -= len(jobs)
            self._ordered.extend(jobs)
            return jobs

    def forget(self) -> None:
        """Free the frames of a queue that was stopped."""
        with self._room:
            super().forget()
            for name, _ in list(self._turns.waiting()):
                self._turns.drop(name)

    @property
    def _active(self) -> threading.Condition:
        return self._work_together if self._are_together else self._work

    def _add(self, name: str, job: Job, now: float) -> None:
        self._turns.put(name, job, now)
        self._wake_worker()

    def _is_over(self, name: str) -> bool:
        return self._stopped or self._failed or name not in self._unfinished

    def _ends(self) -> bool:
        return self._stopped or self._failed or self._finished

    @property
    def _are_together(self) -> bool:
        return self._workers > 0

    def _has_turn(self) -> bool:
        is_behind = self._is_behind()
        ahead = self._workers if is_behind else self._workers * self._batch
        least = self._batch if not is_behind and self._can_wait() else 1
        return self._wanted + ahead > 0 and len(self._turns) >= least

    def _can_wait(self) -> bool:
        """Decide whether a worker can wait for a full batch: enough cameras go on, and all other workers compute."""
        computing = self._workers - self._idle
        return computing >= max(1, self._workers - 1) and len(self._unfinished) >= self._batch

    def _is_behind(self) -> bool:
        """Return whether the consumer has not fetched a prediction that is ready."""
        return bool(self._ordered) and self._ordered[0].outcome is not None

    def _next(self) -> Job | None:
        """Take the job of the next turn; None if all that waited were too old."""
        for name, job in list(self._turns.waiting()):
            self._rooms[name].notify()
            if not job.intake.refuses(age_ms(job.frame)):
                self._turns.take(name)
                return job
            self._turns.drop(name)
        return None

    def _finish_if_over(self) -> None:
        if not self._unfinished and not len(self._turns):
            self.finish(self._final_error())

    def _want(self) -> None:
        self._wanted += 1
        self._wake_worker()

    def _wake_worker(self) -> None:
        if self._has_turn():
            self._active.notify()

    def _wake_all(self) -> None:
        super()._wake_all()
        self._work_together.notify_all()
        for room in self._rooms.values():
            room.notify_all()


def _nothing() -> None:
    """Drop nothing: this queue counts what gives way itself."""
