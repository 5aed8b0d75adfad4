"""Each camera gets its turns, whatever the rates of the others; workers share full batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from hypothesis import given
from hypothesis import strategies as st
from many_cameras import Counting, camera, check_counts, picture
from streams import PATIENCE

from vitedge.runtime.sources.base import Frame
from vitedge.runtime.stream.cameras.queue import CameraQueue
from vitedge.runtime.stream.cameras.streams import Streams
from vitedge.runtime.stream.intake import Intake
from vitedge.runtime.stream.queue import Job

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


def working_together(names: Sequence[str]) -> CameraQueue:
    """A queue for two workers who take a frame of each camera at once."""
    jobs = CameraQueue(dict.fromkeys(names), lambda: None)
    jobs.activate(workers=2, batch=len(names))
    return jobs


def offer(jobs: CameraQueue, name: str) -> None:
    intake = Intake(name, lambda _: True, max_age_ms=None, skip_corrupt=True)
    jobs.offer(name, Job(Frame(picture(0), 0), intake.ledger.capture(), intake))


class TestFairness:
    def test_an_overloaded_engine_is_shared_evenly(self):
        cameras = {name: camera(fps) for name, fps in (("fast", 1000.0), ("usual", 200.0), ("also", 150.0))}
        with Streams(Counting(0.01), cameras, max_frames=120) as streams:
            counted = Counter(each.source for each in streams)
        assert min(counted.values()) >= 120 / 4
        check_counts(streams)

    def test_a_slow_camera_loses_nothing_to_fast_ones(self):
        cameras = {**{f"fast {number}": camera(1000.0) for number in range(3)}, "slow": camera(8.0)}
        with Streams(Counting(0.005), cameras, max_frames=200) as streams:
            list(streams)
        slow = streams.stats.cameras["slow"]
        assert slow.captured >= 5
        assert slow.dropped["newer"] <= 1

    @given(st.lists(st.sampled_from(["door", "yard", "gate", "take"]), max_size=100))
    def test_no_waiting_frame_sees_two_turns_of_another_camera(self, events: list[str]):
        names = ("door", "yard", "gate")
        jobs = CameraQueue(dict.fromkeys(names), lambda: None)
        jobs.activate(workers=10**6, batch=1)
        intakes = {name: Intake(name, lambda _: True, max_age_ms=None, skip_corrupt=True) for name in names}
        turns: dict[str, list[str | None]] = {}
        for event in events:
            if event != "take":
                jobs.offer(event, Job(Frame(picture(0), 0), intakes[event].ledger.capture(), intakes[event]))
                turns.setdefault(event, [])
            elif turns:
                job = jobs.take_turn(together=True)
                assert job is not None
                del turns[str(job.intake.name)]
                for seen in turns.values():
                    seen.append(job.intake.name)
                    assert len(seen) == len(set(seen))

    def test_a_worker_waits_for_a_full_batch_while_the_other_computes(self):
        jobs = working_together(("door", "yard", "gate"))
        with ThreadPoolExecutor() as pool:
            worker = pool.submit(jobs.take_turn, together=True)
            offer(jobs, "door")
            offer(jobs, "yard")
            with pytest.raises(TimeoutError):
                worker.result(0.1)
            offer(jobs, "gate")
            first = worker.result(PATIENCE)
        assert [each.intake.name for each in (first, *jobs.take_more(2))] == ["door", "yard", "gate"]

    def test_a_worker_does_not_wait_for_a_batch_that_the_cameras_left_cannot_fill(self):
        jobs = working_together(("door", "yard", "gate"))
        with ThreadPoolExecutor() as pool:
            worker = pool.submit(jobs.take_turn, together=True)
            offer(jobs, "door")
            offer(jobs, "yard")
            jobs.finish_camera("gate")
            assert worker.result(PATIENCE).intake.name == "door"

    def test_a_worker_does_not_wait_for_a_batch_when_the_consumer_is_behind(self):
        jobs = working_together(("door", "yard", "gate"))
        for name in ("door", "yard", "gate"):
            offer(jobs, name)
        done = jobs.take_turn(together=True)
        assert done is not None
        jobs.done((done, RuntimeError("its outcome")))
        following = jobs.take_turn(together=True)
        assert following is not None
        assert following.intake.name == "yard"
        assert jobs.take_more(1) == ()

    def test_a_worker_that_waits_for_a_full_batch_ends_with_the_stream(self):
        jobs = working_together(("door", "yard", "gate"))
        with ThreadPoolExecutor() as pool:
            worker = pool.submit(jobs.take_turn, together=True)
            offer(jobs, "door")
            jobs.stop()
            assert worker.result(PATIENCE) is None

    def test_two_idle_workers_do_not_wait_for_a_full_batch(self):
        jobs = working_together(("door", "yard", "gate"))
        with ThreadPoolExecutor() as pool:
            workers = [pool.submit(jobs.take_turn, together=True) for _ in range(2)]
            offer(jobs, "door")
            done, _ = wait(workers, PATIENCE, FIRST_COMPLETED)
            assert [each.result().intake.name for each in done] == ["door"]
            jobs.stop()

    def test_a_hundred_cameras_all_get_their_turns(self):
        cameras = {f"camera {number}": camera(20.0) for number in range(100)}
        with Streams(Counting(), cameras, max_frames=1000) as streams:
            counted = Counter(each.source for each in streams)
        assert len(counted) == 100
        check_counts(streams)
