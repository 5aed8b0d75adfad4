"""Workers take over when one engine does not keep up, and several frames at once when all wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

import numpy as np
import pytest
from many_cameras import Batching, Counting, camera, check_counts, picture
from streams import until

from vitedge.errors import EngineError, FrameSourceError
from vitedge.runtime.stream.cameras import saturation
from vitedge.runtime.stream.cameras.streams import Streams
from vitedge.testing import FakeSource

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


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
