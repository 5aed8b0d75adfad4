"""Several cameras share one engine fairly, and none depends on another."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import until

from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError, FrameSourceError, MissingExtraError, UsageError
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.runtime.stream.cameras import saturation
from vitedge.runtime.stream.cameras.queue import CameraQueue
from vitedge.runtime.stream.cameras.streams import MOST_CAMERAS, Streams
from vitedge.runtime.stream.intake import Intake
from vitedge.runtime.stream.queue import Job
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.states import StateChange
from vitedge.testing import FakeSource

PATIENCE = 10.0
AT_ONCE = Reconnect(first_delay=0.01, longest_delay=0.02)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


def picture(number: int) -> np.ndarray:
    return np.full((4, 4, 3), number % 256, np.uint8)


class Counting:
    """A classifier whose class is the value of a frame's pixels."""

    def __init__(self, pause: float = 0.0, workers: Sequence[Counting] = ()) -> None:
        self.pause = pause
        self.errors: dict[int, BaseException] = {}
        self.classified = 0
        self._workers = workers
        self.asked_for_batches: list[bool] = []
        self.workers_error: BaseException | None = None

    def classify(self, image, *, topk, order):
        number = int((image if isinstance(image, np.ndarray) else image.bgr())[0, 0, 0])
        if number in self.errors:
            raise self.errors[number]
        time.sleep(self.pause)
        self.classified += 1
        best = tuple(ClassScore(str(number), place, 1.0) for place in range(topk))
        return Prediction(best, 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0))

    def oriented(self, image, orientation):
        return image

    def orientation_notice(self, count, subject):
        return f"{count} turned"

    def workers(self, *, batches):
        if self.workers_error is not None:
            raise self.workers_error
        self.asked_for_batches.append(batches)
        return self._workers


class Batching(Counting):
    """A worker that takes several frames at once."""

    batch = 3

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(pause)
        self.batches: list[int] = []

    def classify_batch(self, images, *, topk):
        self.batches.append(len(images))
        return [self.classify(image, topk=topk, order=order) for image, order in images]


def camera(fps: float | None = 200.0, *, frames: int | None = None, error: BaseException | None = None) -> FakeSource:
    """A live source; endless unless ``frames`` says how many it delivers before it ends or fails."""
    return FakeSource(
        lambda index: picture(index) if frames is None or index < frames else None, fps=fps, live=True, error=error
    )


def check_counts(streams: Streams) -> None:
    """Each captured frame is a prediction or a counted drop, in each camera and in total."""
    stats = streams.stats
    for each in (stats.total, *stats.cameras.values()):
        assert each.under_way == 0
        assert each.captured == each.predicted + sum(each.dropped.values())
    for name in ("captured", "predicted"):
        assert getattr(stats.total, name) == sum(getattr(each, name) for each in stats.cameras.values())


def last_frame(predictions: Sequence[Prediction], name: str) -> int:
    """The index of the last frame of a camera; the newest frame is never lost."""
    return [each.frame for each in predictions if each.source == name][-1]


class TestPredictions:
    def test_name_their_camera_and_keep_its_order(self):
        with Streams(Counting(), {"door": camera(), "yard": camera(90)}, max_frames=200) as streams:
            predictions = list(streams)
        assert len(predictions) == 200
        for name in ("door", "yard"):
            mine = [each for each in predictions if each.source == name]
            frames = [each.frame for each in mine]
            assert len(frames) > 20
            assert frames == sorted(set(frames))
            assert [int(each.label) for each in mine] == [frame % 256 for frame in frames]
            assert mine[-1].to_json()["source"] == name
            assert streams.stats.cameras[name].predicted == len(mine)
            assert frames[-1] + 1 == len(mine) + sum(each.dropped for each in mine)
        check_counts(streams)
        assert streams.state == {"door": "ended", "yard": "ended"}

    def test_are_of_the_newest_frames(self):
        source = camera(None, frames=50)
        with Streams(Counting(), {"door": source}) as streams:
            assert until(lambda: source.delivered == 50)
            predictions = list(streams)
        assert [each.frame for each in predictions] == [49]
        assert predictions[0].dropped == 49
        assert streams.stats.cameras["door"].dropped["newer"] == 49
        check_counts(streams)

    def test_are_of_frames_that_are_new_when_they_are_asked_for(self):
        arrived = threading.Semaphore()

        def frames(index: int) -> np.ndarray | None:
            arrived.acquire()
            return picture(index) if index < 10 else None

        source = FakeSource(frames, live=True)
        with Streams(Counting(), {"door": source}) as streams:
            assert next(streams).frame == 0
            arrived.release()
            assert until(lambda: source.delivered == 2)
            time.sleep(0.05)  # a worker that did not wait would take the frame
            arrived.release(8)
            assert until(lambda: source.delivered == 10)
            assert next(streams).frame in (8, 9)  # the last one may still be in the reader's hands
            arrived.release()

    def test_of_files_lose_no_frame(self):
        clip = [picture(number) for number in range(40)]
        with Streams(Counting(0.001), {"a": clip, "b": iter(clip), "door": camera(frames=30)}) as streams:
            counted = Counter(each.source for each in streams)
        assert counted["a"] == counted["b"] == 40
        check_counts(streams)
        assert sum(streams.stats.cameras["a"].dropped.values()) == 0

    def test_older_than_allowed_never_come(self):
        second_ago = time.monotonic_ns() - 1_000_000_000
        old = FrameIterable([Frame(picture(0), 0, captured_ns=second_ago)] * 5, live=True)
        with Streams(Counting(), {"old": old, "door": camera(frames=20)}, max_age_ms=500) as streams:
            assert {each.source for each in streams} == {"door"}
        assert streams.stats.cameras["old"].dropped["too_old"] == 5
        check_counts(streams)

    def test_of_frames_that_grew_old_while_they_waited_are_not_even_made(self):
        classifier, source = Counting(), camera(None, frames=1)
        with Streams(classifier, {"door": source}, max_age_ms=20) as streams:
            assert until(lambda: streams.stats.total.captured)
            time.sleep(0.05)
            assert list(streams) == []
        assert classifier.classified == 0
        assert streams.stats.total.dropped["too_old"] == 1

    def test_that_are_damaged_are_dropped_unless_they_are_asked_for(self):
        def damaged() -> FrameIterable:
            return FrameIterable([Frame(picture(1), 0, corrupt=True)], live=True)

        with Streams(Counting(), {"door": damaged()}) as streams:
            assert list(streams) == []
        assert streams.stats.total.dropped["corrupt"] == streams.stats.total.corrupt == 1
        with Streams(Counting(), {"door": damaged()}, skip_corrupt=False) as streams:
            assert len(list(streams)) == 1

    def test_come_without_blocking_an_event_loop(self):
        async def counted() -> Counter[str | None]:
            async with Streams(Counting(), {"door": camera(), "yard": camera()}, max_frames=40) as streams:
                return Counter([each.source async for each in streams])

        found = asyncio.run(counted())
        assert set(found) == {"door", "yard"}
        assert sum(found.values()) == 40

    def test_of_a_real_bundle(self, tiny_bundle: Bundle, colour_frame: Callable[..., np.ndarray]):
        from vitedge.runtime.load import load

        colours = {"r": "red", "g": "green", "b": "blue"}
        with load(tiny_bundle) as classifier:
            sources = {name: [colour_frame(colour)] * 5 for name, colour in colours.items()}
            with classifier.streams(sources) as streams:
                predictions = list(streams)
        assert len(predictions) == 15
        assert all(each.label == colours[str(each.source)] for each in predictions)


def working_together(names: Sequence[str]) -> CameraQueue:
    """A queue for two workers who take a frame of each camera at once."""
    jobs = CameraQueue(dict.fromkeys(names), lambda: None)
    jobs.activate(together=True, ahead=2, batch=len(names))
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
        jobs.activate(together=False, ahead=10**6, batch=1)
        intakes = {name: Intake(name, lambda _: True, max_age_ms=None, skip_corrupt=True) for name in names}
        turns: dict[str, list[str | None]] = {}
        for event in events:
            if event != "take":
                jobs.offer(event, Job(Frame(picture(0), 0), intakes[event].ledger.capture(), intakes[event]))
                turns.setdefault(event, [])
            elif turns:
                job = jobs.take_turn(together=False)
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


class TestRates:
    def test_of_one_camera_or_of_all(self):
        for max_fps, limited in (({"door": 20.0}, {"door"}), (20.0, {"door", "yard"})):
            with Streams(Counting(), {"door": camera(100.0), "yard": camera(100.0)}, max_fps=max_fps) as streams:
                begun = time.monotonic()
                while time.monotonic() - begun < 0.5:
                    next(streams)
                most = (time.monotonic() - begun) * 20 + 2
            for name, stats in streams.stats.cameras.items():
                assert stats.predicted <= most or name not in limited
                assert (stats.dropped["max_fps"] > 0) == (name in limited)
            check_counts(streams)

    def test_files_wait_instead_of_losing_frames(self):
        begun = time.monotonic()
        with Streams(Counting(), {"clip": [picture(number) for number in range(6)]}, max_fps=20.0) as streams:
            assert len(list(streams)) == 6
        assert time.monotonic() - begun >= 5 / 20 - 0.05


def failing(*causes: str | None) -> Callable[[], FakeSource]:
    """Open a camera: fail by each of the causes first, then succeed."""
    remaining = list(causes)

    def opened() -> FakeSource:
        if remaining:
            cause = remaining.pop(0)
            raise FrameSourceError(f"no camera: {cause}", cause=cause)  # type: ignore[arg-type]
        return camera(frames=30)

    return opened


class TestDeath:
    def test_of_one_camera_leaves_the_others_alone(self):
        lost = FrameSourceError("unplugged", cause="unplugged", fix="plug it in")
        cameras = {"door": camera(frames=5, error=lost), "yard": camera(frames=60)}
        seen: list[Prediction] = []
        with (
            Streams(Counting(), cameras, reconnect=False) as streams,
            pytest.raises(FrameSourceError, match="door: unplugged") as raised,
        ):
            seen.extend(streams)
        assert raised.value.cause == "unplugged"
        assert raised.value.fix == "plug it in"
        assert raised.value.__cause__ is lost
        assert last_frame(seen, "yard") == 59
        assert streams.errors == {"door": lost}
        check_counts(streams)

    def test_of_all_names_all(self, caplog: pytest.LogCaptureFixture):
        cameras = {
            "door": camera(frames=3, error=FrameSourceError("no answer", cause="timeout")),
            "yard": camera(frames=3, error=OSError("rtsp://me:secret@camera/1")),
            "gate": camera(frames=3),
        }
        with Streams(Counting(), cameras, reconnect=False) as streams, pytest.raises(FrameSourceError) as raised:
            list(streams)
        assert "door: no answer; yard: OSError: " in raised.value.problem
        assert "secret" not in str(raised.value) + caplog.text
        assert raised.value.cause is None
        assert set(streams.errors) == {"door", "yard"}
        assert next(streams, None) is None

    def test_without_an_error_is_the_end(self):
        with Streams(Counting(), {"door": camera(frames=3), "yard": camera(frames=3)}) as streams:
            assert {each.source for each in streams} == {"door", "yard"}
        assert streams.errors == {}

    def test_by_a_hang_leaves_the_others_alone_and_is_left_behind_at_the_end(self):
        hangs = threading.Event()

        def hanging(index: int) -> np.ndarray | None:
            if index == 2:
                hangs.wait(PATIENCE)
                return None
            return picture(index)

        cameras = {"door": FakeSource(hanging, live=True), "yard": camera(frames=100)}
        streams = Streams(Counting(), cameras, max_frames=50)
        assert len(list(streams)) == 50
        assert streams.stats.total.left_behind == 1
        hangs.set()

    def test_by_a_frame_that_the_model_refuses(self, caplog: pytest.LogCaptureFixture):
        classifier = Counting()
        classifier.errors = dict.fromkeys(range(7, 100), FrameSourceError("a grey frame"))
        cameras = {"door": camera(50.0, frames=200), "yard": [picture(100)] * 40}
        with Streams(classifier, cameras, max_fps={"yard": 40.0}) as streams:
            assert until(lambda: next(streams) and streams.errors)
            assert streams.state["door"] == "ended"
            assert streams.stats.cameras["door"].under_way == 0
            with pytest.raises(FrameSourceError, match="door: a grey frame"):
                list(streams)
        assert streams.stats.cameras["yard"].predicted == 40
        assert streams.stats.cameras["door"].predicted <= 7
        assert cameras["door"].delivered < 200  # type: ignore[union-attr]
        assert "door has ended: a grey frame" in caplog.messages
        check_counts(streams)


class TestOpening:
    def test_is_tried_again_while_the_others_go_on(self):
        changes: list[StateChange] = []
        cameras = {"door": failing("refused", "network"), "yard": camera(frames=100)}
        with Streams(Counting(), cameras, reconnect=AT_ONCE, on_state=changes.append) as streams:
            seen = list(streams)
        assert last_frame(seen, "door") == 29
        assert last_frame(seen, "yard") == 99
        mine = [(each.state, each.cause) for each in changes if each.source == "door"]
        assert mine[:3] == [("offline", "refused"), ("offline", "network"), ("online", None)]

    @pytest.mark.parametrize(
        ("causes", "reconnect"),
        [(("auth",), AT_ONCE), ((None,), AT_ONCE), (("refused",), False), (("refused",) * 3, Reconnect(0.0, 0.0, 2))],
    )
    def test_that_fails_for_good_ends_one_camera(self, causes: tuple[str | None, ...], reconnect: bool | Reconnect):
        cameras = {"door": failing(*causes), "yard": camera(frames=30)}
        seen: list[Prediction] = []
        with Streams(Counting(), cameras, reconnect=reconnect) as streams:
            with pytest.raises(FrameSourceError, match=f"door: no camera: {causes[0]}") as raised:
                seen.extend(streams)
            assert streams.state["door"] == "ended"
        assert raised.value.cause == causes[0]
        assert last_frame(seen, "yard") == 29
        assert "door" not in {each.source for each in seen}

    def test_that_takes_long_holds_up_no_other_camera(self):
        opens = threading.Event()

        def slow() -> FakeSource:
            opens.wait(PATIENCE)
            return camera(frames=20)

        with Streams(Counting(), {"door": slow, "yard": camera(frames=50)}) as streams:
            assert next(streams).source == "yard"
            assert streams.state["door"] == "connecting"
            opens.set()
            assert "door" in {each.source for each in streams}

    def test_of_a_wrong_address_is_a_mistake_of_the_caller(self):
        with Streams(Counting(), {"yard": camera(), "door": "rtps://camera/1"}) as streams:
            with pytest.raises(UsageError, match="door: unknown scheme") as raised:
                list(streams)
            assert "did you mean rtsp" in raised.value.fix

    def test_without_a_package_says_which(self):
        def missing() -> FakeSource:
            raise MissingExtraError("av", extra="camera", purpose="video")

        with Streams(Counting(), {"yard": camera(), "door": missing}) as streams, pytest.raises(MissingExtraError):
            list(streams)

    def test_again_numbers_the_frames_on(self):
        sources = itertools.count()

        def opened() -> FakeSource:
            lost = FrameSourceError("lost", cause="network") if next(sources) < 2 else None
            return camera(frames=10, error=lost)

        with Streams(Counting(), {"door": opened}, reconnect=AT_ONCE) as streams:
            predictions = list(streams)
        assert {each.epoch for each in predictions} == {0, 1, 2}
        assert [each.frame for each in predictions] == sorted({each.frame for each in predictions})
        assert streams.stats.cameras["door"].reconnects == 2
        assert any("door: " in notice and "opened again" in notice for notice in streams.notices)


class TestEnding:
    def test_by_the_engine_is_the_end_of_all(self):
        classifier = Counting()
        classifier.errors[5] = EngineError("it failed")
        sources = [FakeSource([picture(number)] * 50) for number in (3, 5)]
        streams = Streams(classifier, {"door": sources[0], "yard": lambda: sources[1]})  # type: ignore[dict-item]
        with streams, pytest.raises(EngineError, match="it failed"):
            list(streams)
        assert until(lambda: sources[1].closed)
        assert not sources[0].closed  # it was passed in open
        assert next(streams, None) is None
        check_counts(streams)

    @pytest.mark.parametrize("fps", [200.0, 0.01])
    def test_by_another_thread_ends_the_wait(self, fps: float):
        streams = Streams(Counting(), {"door": lambda: camera(fps), "yard": lambda: camera(fps)})
        stopper = threading.Timer(0.1, streams.stop)
        stopper.start()
        list(streams)
        stopper.join()
        check_counts(streams)

    def test_before_the_first_prediction(self):
        sources = [camera(), camera()]
        Streams(Counting(), {"door": lambda: sources[0], "yard": lambda: sources[1]}).close()
        assert until(lambda: all(source.closed or not source.delivered for source in sources))

    def test_that_is_forgotten_warns_and_closes(self):
        def forget() -> None:
            next(Streams(Counting(), {"door": camera(), "yard": camera()}))

        with pytest.warns(ResourceWarning, match="the stream was not closed"):
            forget()

    def test_frees_a_file_that_waits_for_its_turn(self):
        with Streams(Counting(), {"clip": [picture(number) for number in range(50)]}) as streams:
            next(streams)
            assert until(
                lambda: streams.stats.total.captured == 3
            )  # one is out, one waits, one is in the reader's hands
        check_counts(streams)
        assert streams.stats.total.dropped["at_end"] == 2

    def test_ends_the_reports_of_all_cameras(self):
        changes: list[StateChange] = []
        with Streams(Counting(), {"door": camera(frames=3), "yard": camera()}, on_state=changes.append) as streams:
            assert until(lambda: next(streams) and streams.state["door"] == "ended")
            time.sleep(0.05)  # the report of its end is on its way
        assert until(lambda: {each.source for each in changes if each.state == "ended"} == {"door", "yard"})


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "WINDOW_SECONDS", 0.1)


@pytest.mark.usefixtures("short_window")
class TestWorkers:
    def test_take_over_when_one_engine_does_not_keep_up(self):
        workers = [Counting(0.01) for _ in range(3)]
        classifier = Counting(0.01, workers)
        with Streams(classifier, {"door": camera(), "yard": camera()}, max_frames=300) as streams:
            predictions = list(streams)
            assert streams.workers == 3
        assert min(worker.classified for worker in workers) > 20
        for name in ("door", "yard"):
            frames = [each.frame for each in predictions if each.source == name]
            assert frames == sorted(set(frames))
        check_counts(streams)

    def test_take_a_frame_of_each_camera_at_once_when_all_wait(self):
        workers = [Batching(0.01) for _ in range(2)]
        cameras = {name: camera(500.0) for name in ("door", "yard", "gate")}
        with Streams(Counting(0.01, workers), cameras, max_frames=200) as streams:
            predictions = list(streams)
        assert {size for worker in workers for size in worker.batches} == {3}
        assert sum(len(worker.batches) for worker in workers) > 10
        late = predictions[-60:]
        assert [Counter(each.source for each in late)[name] for name in cameras] == [20, 20, 20]
        for name in cameras:
            frames = [each.frame for each in predictions if each.source == name]
            assert frames == sorted(set(frames))
        check_counts(streams)

    def test_take_one_frame_at_a_time_for_a_consumer_who_is_behind(self):
        workers = [Batching(), Batching()]
        alone = Counting(0.01, workers)
        cameras = {name: camera(500.0) for name in ("door", "yard", "gate")}
        with Streams(alone, cameras) as streams:
            assert until(lambda: next(streams) and streams.workers == 2)
            assert until(lambda: next(streams) and workers[0].batches)
            for _ in range(60):
                time.sleep(0.002)
                next(streams)
            time.sleep(0.05)
            assert streams.workers == 2
            classified = sum(each.classified for each in (alone, *workers))
            assert classified - streams.stats.total.predicted <= len(workers)
        check_counts(streams)

    @pytest.mark.parametrize(("cameras", "batches"), [(3, False), (4, True)])
    def test_are_for_batches_where_the_cameras_fill_one(self, cameras: int, batches: bool):
        classifier = Counting(0.01, [Counting(0.01)] * 2)
        with Streams(classifier, {str(number): camera() for number in range(cameras)}) as streams:
            assert until(lambda: next(streams) and streams.workers == 2)
        assert classifier.asked_for_batches == [batches]

    def test_leave_the_engine_alone_when_it_keeps_up(self):
        classifier = Counting(0.001, [Counting()])
        with Streams(classifier, {"door": camera(20.0), "yard": camera(20.0)}, max_frames=30) as streams:
            list(streams)
            assert streams.workers == 1

    def test_give_way_when_it_would_keep_up_again(self):
        rush = threading.Event()
        rush.set()

        def frames(index: int) -> np.ndarray:
            time.sleep(0.001 if rush.is_set() else 0.2)
            return picture(index)

        cameras = {"door": FakeSource(frames, live=True), "yard": FakeSource(frames, live=True)}
        with Streams(Counting(0.01, [Counting(0.01)] * 2), cameras) as streams:
            assert until(lambda: next(streams) and streams.workers == 2)
            rush.clear()
            assert until(lambda: next(streams) and streams.workers == 1)
            next(streams)
        check_counts(streams)

    def test_that_refuse_several_frames_of_a_camera_end_it_once(self, caplog: pytest.LogCaptureFixture):
        workers = [Counting(0.01) for _ in range(3)]
        with Streams(Counting(0.01, workers), {"door": lambda: camera()}) as streams:
            assert until(lambda: next(streams) and streams.workers == 3)
            for worker in workers:
                worker.errors = dict.fromkeys(range(256), FrameSourceError("a grey frame"))
            with pytest.raises(FrameSourceError, match="door: a grey frame"):
                list(streams)
        assert [each for each in caplog.messages if "ended" in each] == ["door has ended: a grey frame"]

    def test_are_two_threads_where_the_engine_has_none(self):
        with Streams(Counting(0.01), {"door": camera(), "yard": camera()}) as streams:
            assert until(lambda: next(streams) and streams.workers == 2)

    def test_that_do_not_open_are_missed_and_no_more(self, caplog: pytest.LogCaptureFixture):
        classifier = Counting(0.01)
        classifier.workers_error = EngineError("no memory")
        with caplog.at_level(logging.WARNING, logger="vitedge"), Streams(classifier, {"door": camera()}) as streams:
            assert until(lambda: next(streams) and caplog.messages)
            for _ in range(20):
                next(streams)
            assert streams.workers == 1
        assert caplog.messages == ["the cameras go on with one engine, more slowly"]


def two() -> dict[str, FakeSource]:
    return {"door": camera(), "yard": camera()}


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"max_frames": 0}, "max_frames is 0"),
            ({"topk": 0}, "topk is 0"),
            ({"max_age_ms": 0}, "max_age_ms is 0"),
            ({"max_fps": 0}, "max_fps of door is 0"),
            ({"max_fps": -1.0}, "max_fps of door is -1"),
            ({"max_fps": float("nan")}, "max_fps of door is nan"),
            ({"max_fps": float("inf")}, "max_fps of door is inf"),
            ({"max_fps": {"yard": 0.0}}, "max_fps of yard is 0"),
            ({"max_fps": {"dor": 5.0}}, "max_fps names 'dor'"),
            ({"options": {"gate": None}}, "options names 'gate'"),
            ({"reconnect": 5}, "reconnect is 5"),
        ],
    )
    def test_that_are_wrong_are_refused(self, arguments: dict[str, object], message: str):
        with pytest.raises(UsageError, match=message):
            Streams(Counting(), two(), **arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("cameras", "message"),
        [
            ({}, "there are 0 cameras"),
            ({"": 0}, "named ''"),
            ({" door": 0}, "named ' door'"),
            ({"a\nb": 0}, r"named 'a\\nb'"),
            ({1: 0}, "named 1"),
            ({"x" * 101: 0}, "at most 100 characters"),
            ("rtsp://camera/1", "the cameras are str"),
            ([0, 1], "the cameras are list"),
            ({str(number): number for number in range(MOST_CAMERAS + 1)}, "there are 257 cameras"),
        ],
    )
    def test_that_name_no_cameras_are_refused(self, cameras: object, message: str):
        with pytest.raises(UsageError, match=message) as raised:
            Streams(Counting(), cameras)  # type: ignore[arg-type]
        assert raised.value.expected

    def test_a_list_of_streams_names_its_cameras(self, tmp_path: Path):
        path = tmp_path / "site.streams"
        path.write_text("door = test://?fps=100&size=64x48\nyard = test://?fps=100&size=64x48\n", encoding="utf-8")
        with Streams(Counting(), path, max_frames=20) as streams:
            assert {each.source for each in streams} == {"door", "yard"}
        with pytest.raises(FrameSourceError, match="cannot be read"):
            Streams(Counting(), str(tmp_path / "none.streams"))

    @pytest.mark.parametrize("source", [camera(), iter([picture(0)])])
    def test_one_source_under_two_names_is_refused(self, source: FakeSource | Iterator[np.ndarray]):
        with pytest.raises(UsageError, match="door and yard are one source"):
            Streams(Counting(), {"door": source, "yard": source})

    def test_options_reach_each_camera(self):
        from vitedge.runtime.sources.options import SourceOptions

        options = {"door": SourceOptions(stall_timeout=0.05)}
        changes: list[StateChange] = []
        cameras = {name: camera(2.0) for name in ("door", "yard")}
        with Streams(Counting(), cameras, options=options, on_state=changes.append) as streams:
            for _ in itertools.islice(streams, 4):
                pass
        stalled = {each.source for each in changes if each.state == "stalled"}
        assert stalled == {"door"}
