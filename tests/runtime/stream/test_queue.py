"""Jobs arrive in order, the newest frame wins where it should, and nobody waits for a thread that has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.stream import queue as module
from vitedge.runtime.stream.intake import Intake
from vitedge.runtime.stream.queue import TOGETHER_FRAMES, Job, JobQueue

pytestmark = pytest.mark.timeout(30)

PATIENCE = 10.0
PIXELS = np.zeros((2, 2, 3), dtype=np.uint8)
OUTCOME = Prediction((ClassScore("0", 0, 1.0),), 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0))


class Queue(JobQueue):
    """A queue that counts what gives way."""

    def __init__(self, capacity: int = 2, *, newest_only: bool = False, live: bool = False, ahead: int = 0) -> None:
        self.dropped = 0
        super().__init__(capacity, newest_only=newest_only, live=live, on_drop=self._drop, ahead=ahead)
        self.intake = Intake(None, self.put, max_age_ms=None, skip_corrupt=True)

    def _drop(self) -> None:
        self.dropped += 1

    def add(self, *numbers: int) -> list[bool]:
        return [self.put(Job(Frame(PIXELS, number), number, self.intake)) for number in numbers]

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def work(self) -> None:
        while (job := self.take()) is not None:
            self.done((job, OUTCOME))

    def rest(self) -> list[int]:
        numbers = []
        while (job := self.get()) is not None:
            numbers.append(job.number)
        return numbers


def started(target: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def ended(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(PATIENCE)
    return not any(thread.is_alive() for thread in threads)


def is_waiting(thread: threading.Thread) -> bool:
    thread.join(0.05)
    return thread.is_alive()


class TestOrder:
    def test_jobs_arrive_in_order_whatever_the_workers_do(self):
        queue = Queue(8)
        queue.add(1, 2, 3)
        first, second, third = queue.take(), queue.take(), queue.take()
        for job in (third, first, second):
            queue.done((job, OUTCOME))
        queue.finish()
        assert queue.rest() == [1, 2, 3]

    def test_many_workers_lose_nothing(self):
        queue = Queue(4)
        workers = [started(queue.work) for _ in range(4)]
        reader = started(lambda: (queue.add(*range(1, 301)), queue.finish()))
        assert queue.rest() == list(range(1, 301))
        assert ended(reader, *workers)
        assert queue.dropped == 0

    def test_a_discarded_job_is_left_out(self):
        queue = Queue(8)
        queue.add(1, 2, 3)
        for _ in range(3):
            job = queue.take()
            queue.discard(job) if job.number == 2 else queue.done((job, OUTCOME))
        queue.finish()
        assert queue.rest() == [1, 3]

    def test_a_discarded_job_makes_room_for_the_reader(self):
        queue = Queue(1)
        queue.add(1)
        reader = started(queue.add, 2)
        assert is_waiting(reader)
        queue.discard(queue.take())
        assert ended(reader)


class TestEvery:
    def test_the_reader_waits_for_room(self):
        queue = Queue(2)
        queue.add(1, 2)
        reader = started(queue.add, 3)
        assert is_waiting(reader)
        queue.done((queue.take(), OUTCOME))
        assert is_waiting(reader)
        assert queue.get().number == 1
        assert ended(reader)

    def test_the_reader_is_woken_for_several_frames_at_once(self):
        queue = Queue(4)
        queue.add(1, 2, 3, 4)
        reader = started(queue.add, 5, 6)
        for left in (3, 2):
            assert is_waiting(reader)
            queue.done((queue.take(), OUTCOME))
            assert queue.waiting == left
            queue.get()
        assert ended(reader)
        assert queue.waiting == 4

    def test_the_consumer_wakes_once_for_the_jobs_of_a_batch(self):
        queue = Queue(4)
        queue.add(1, 2, 3)
        woken: list[int] = []
        queue.poll(lambda: woken.append(len(woken)), again=False)
        queue.done(*((job, OUTCOME) for job in (queue.take(), *queue.take_more(2))))
        assert woken == [0]
        queue.finish()
        assert queue.rest() == [1, 2, 3]

    def test_a_reader_that_is_ahead_is_woken_when_that_is_used_up(self):
        queue = Queue(3, ahead=4)
        queue.widen(3, 5)
        queue.add(*range(1, 10))
        reader = started(queue.add, *range(10, 14))
        for left in (8, 7, 6, 5):
            assert is_waiting(reader)
            queue.done((queue.take(), OUTCOME))
            assert queue.waiting == left
            queue.get()
        assert ended(reader)
        assert queue.waiting == 9

    def test_a_consumer_is_woken_once_for_several_outcomes_while_the_reader_is_ahead(self, monkeypatch):
        monkeypatch.setattr(module, "TOGETHER_SECONDS", 3 * PATIENCE)
        queue = Queue(3, ahead=8)
        queue.add(*range(1, 12))
        consumer = started(queue.get)
        for _ in range(TOGETHER_FRAMES):
            assert is_waiting(consumer)
            queue.done((queue.take(), OUTCOME))
        assert ended(consumer)

    def test_a_consumer_is_woken_when_few_frames_wait_for_the_workers(self, monkeypatch):
        monkeypatch.setattr(module, "TOGETHER_SECONDS", 3 * PATIENCE)
        queue = Queue(3, ahead=8)
        queue.add(1, 2, 3)
        consumer = started(queue.get)
        assert is_waiting(consumer)
        queue.done((queue.take(), OUTCOME))
        assert ended(consumer)

    def test_no_outcome_waits_for_long(self):
        queue = Queue(3, ahead=8)
        queue.add(*range(1, 12))
        consumer = started(queue.get)
        queue.done((queue.take(), OUTCOME))
        assert ended(consumer)

    def test_an_event_loop_is_woken_for_each_outcome(self):
        queue = Queue(3, ahead=8)
        queue.add(*range(1, 12))
        woken = threading.Event()
        assert queue.poll(woken.set, again=False) == (False, None)
        queue.done((queue.take(), OUTCOME))
        assert woken.is_set()

    def test_more_capacity_lets_it_go_on(self):
        queue = Queue(1)
        queue.add(1)
        reader = started(queue.add, 2)
        assert is_waiting(reader)
        queue.widen(2, 2)
        assert ended(reader)

    @pytest.mark.parametrize(("side", "fit"), [(2, 9), (4000, 2), (2000, 5)])
    def test_frames_for_batches_are_bounded_by_their_bytes_too(self, side: int, fit: int):
        queue = Queue(1)
        queue.widen(2, 9)
        pixels = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (side, side, 3))
        reader = started(lambda: [queue.put(Job(Frame(pixels, number), number, queue.intake)) for number in range(20)])
        while queue.waiting < fit:
            assert reader.is_alive()
        assert is_waiting(reader)
        assert len(queue.take_more(fit)) == fit
        assert queue.take_more(1) == ()
        queue.stop()
        assert ended(reader)

    def test_what_is_no_picture_is_left_to_the_classifier(self):
        queue = Queue(2, ahead=8)
        assert queue.put(Job(Frame(None, 0), 1, queue.intake))
        assert queue.put(Job(Frame(np.zeros((0, 0, 3), np.uint8), 1), 2, queue.intake))
        assert queue.waiting == 2

    def test_more_are_taken_only_if_enough_wait(self):
        queue = Queue(9)
        queue.add(1, 2, 3, 4)
        first = queue.take()
        assert queue.take_more(4) == ()
        assert [job.number for job in queue.take_more(2)] == [2, 3]
        assert queue.take_more(0) == ()
        queue.done((first, OUTCOME))
        assert queue.get() is first
        queue.stop()
        assert queue.take_more(1) == ()

    def test_a_live_source_does_not_wait_before_the_workers_run(self):
        queue = Queue(1, live=True)
        queue.add(1, 2, 3)
        assert queue.dropped == 2
        assert queue.take().number == 3
        reader = started(queue.add, 4)
        assert is_waiting(reader)
        queue.stop()
        assert ended(reader)


class TestLatest:
    def test_a_newer_job_takes_the_place_of_an_older_one(self):
        queue = Queue(newest_only=True)
        queue.add(1, 2, 3)
        assert queue.dropped == 2
        worker = started(queue.work)
        assert queue.get().number == 3
        queue.stop()
        assert ended(worker)

    def test_no_worker_begins_before_somebody_waits(self):
        queue = Queue(newest_only=True)
        worker = started(queue.work)
        queue.add(1)
        assert is_waiting(worker)
        queue.add(2)
        consumer = started(queue.get)
        assert ended(consumer)
        queue.add(3, 4)
        assert queue.dropped == 2  # 1, and 3
        queue.stop()
        assert ended(worker)

    def test_the_job_in_work_does_not_give_way(self):
        queue = Queue(newest_only=True)
        queue.add(1)
        consumer: list[int] = []
        waiting = started(lambda: consumer.append(queue.get().number))
        job = queue.take()
        queue.add(2, 3)
        queue.done((job, OUTCOME))
        assert ended(waiting)
        assert (consumer, queue.dropped) == ([1], 1)

    def test_a_discarded_job_is_followed_by_the_next(self):
        queue = Queue(newest_only=True)
        queue.add(1)
        consumer: list[int] = []
        waiting = started(lambda: consumer.append(queue.get().number))
        queue.discard(queue.take())
        queue.add(2)
        queue.done((queue.take(), OUTCOME))
        assert ended(waiting)
        assert consumer == [2]

    @given(st.lists(st.booleans(), max_size=60))
    def test_every_job_is_consumed_or_counted(self, puts: list[bool]):
        queue = Queue(newest_only=True)
        worker = started(queue.work)
        sent = 0
        received: list[int] = []
        for is_put in puts:
            if is_put:
                sent += 1
                queue.add(sent)
            elif sent > (received[-1] if received else 0):
                received.append(queue.get().number)
        queue.finish()
        received += queue.rest()
        assert ended(worker)
        assert received == sorted(set(received))
        assert len(received) + queue.dropped == sent
        assert not sent or received[-1] == sent


class TestEnd:
    def test_the_readers_error_comes_after_the_jobs_and_once(self):
        queue = Queue()
        queue.add(1)
        queue.finish(OSError("unplugged"))
        queue.done((queue.take(), OUTCOME))
        assert queue.get().number == 1
        with pytest.raises(OSError, match="unplugged"):
            queue.get()
        assert queue.get() is None

    def test_the_first_end_of_the_reader_counts(self):
        queue = Queue()
        queue.finish(OSError("unplugged"))
        queue.finish()
        with pytest.raises(OSError, match="unplugged"):
            queue.get()

    @pytest.mark.parametrize("newest_only", [False, True])
    def test_the_end_of_the_reader_refuses_jobs_and_keeps_those_before_it(self, newest_only: bool):
        """A frame that came after the end would wait for a worker for ever."""
        queue = Queue(newest_only=newest_only)
        queue.add(1)
        queue.finish(OSError("unplugged"))
        assert queue.add(2) == [False]
        worker = started(queue.work)
        assert queue.get().number == 1
        with pytest.raises(OSError, match="unplugged"):
            queue.get()
        assert ended(worker)
        assert queue.dropped == 0

    def test_the_end_of_the_reader_ends_a_wait_for_room(self):
        queue = Queue(1)
        queue.add(1)
        waiting = started(queue.add, 2)
        assert is_waiting(waiting)
        queue.finish()
        assert ended(waiting)
        assert len(queue._ordered) == 1

    @pytest.mark.parametrize("before", [None, OSError("unplugged")])
    def test_workers_that_cannot_begin_end_it_at_once(self, before: OSError | None):
        queue = Queue(1)
        queue.add(1)
        reader = started(queue.add, 2)
        consumer: list[BaseException] = []

        def consume() -> None:
            try:
                queue.get()
            except MemoryError as error:
                consumer.append(error)

        waiting = started(consume)
        if before is not None:
            queue.finish(before)
        queue.fail(MemoryError())
        assert ended(reader, waiting)
        assert len(consumer) == 1
        assert queue.add(3) == [False]

    def test_stop_ends_all_who_wait(self):
        queue = Queue(1)
        queue.add(1)
        queue.take()
        waiting = [started(queue.add, 2), started(queue.take), started(queue.get)]
        assert all(map(is_waiting, waiting))
        queue.stop()
        assert ended(*waiting)
        assert (queue.add(3), queue.take(), queue.get()) == ([False], None, None)

    def test_stop_discards_a_finished_job_and_an_error(self):
        queue = Queue()
        queue.add(1)
        queue.done((queue.take(), OUTCOME))
        queue.finish(OSError("unplugged"))
        queue.stop()
        assert queue.get() is None

    def test_a_signal_handler_stops_it_between_any_two_steps_of_the_consumer(self):
        """The handler runs in the thread that holds the lock, and before that thread begins to wait."""

        class Interrupted(Queue):
            def _has_answer(self) -> bool:
                has_answer = super()._has_answer()
                self.stop()
                return has_answer

        assert Interrupted().get() is None
        queue, woken = Interrupted(), threading.Event()
        assert queue.poll(woken.set, again=False) == (False, None)
        assert woken.is_set()
        assert queue.poll(woken.set, again=True) == (True, None)

    def test_a_parked_queue_holds_daemon_threads_and_lets_others_go(self):
        queue = Queue()
        daemon = started(queue.get)
        other = threading.Thread(target=queue.get)
        other.start()
        queue.park()
        assert ended(other)
        assert is_waiting(daemon)
        queue._parked = False
        queue.stop()
        assert ended(daemon)

    def test_forgetting_frees_the_frames(self):
        queue = Queue(8)
        queue.add(1, 2)
        queue.stop()
        queue.forget()
        assert not queue._ordered
        assert not queue._waiting


class TestPoll:
    def test_it_answers_when_there_is_something(self):
        queue = Queue(newest_only=True)
        woken = threading.Event()
        assert queue.poll(woken.set, again=False) == (False, None)
        queue.add(1)
        job = queue.take()
        assert not woken.is_set()
        queue.done((job, OUTCOME))
        assert woken.is_set()
        assert queue.poll(woken.set, again=True) == (True, job)

    @pytest.mark.parametrize("end", [JobQueue.stop, JobQueue.finish])
    def test_every_end_wakes(self, end: Callable[[JobQueue], None]):
        queue = Queue()
        woken = threading.Event()
        queue.poll(woken.set, again=False)
        end(queue)
        assert woken.is_set()
        assert queue.poll(woken.set, again=True) == (True, None)

    def test_it_raises_the_readers_error(self):
        queue = Queue()
        queue.finish(OSError("unplugged"))
        with pytest.raises(OSError, match="unplugged"):
            queue.poll(lambda: None, again=False)

    def test_waiting_in_an_event_loop(self):
        queue = Queue(newest_only=True)
        worker = started(queue.work)

        async def consume() -> int:
            awake = asyncio.Event()
            loop = asyncio.get_running_loop()
            is_answered, job = queue.poll(lambda: loop.call_soon_threadsafe(awake.set), again=False)
            assert not is_answered
            queue.add(1)
            await asyncio.wait_for(awake.wait(), PATIENCE)
            _, job = queue.poll(lambda: None, again=True)
            return job.number

        assert asyncio.run(consume()) == 1
        queue.stop()
        assert ended(worker)
