"""Streams of every frame through several engines: as fast as they come, in order all the same."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from vitedge.errors import EngineError, FrameSourceError
from vitedge.runtime.stream.stream import WORKERS_PAY_FROM, Stream
from vitedge.testing import FakeSource

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import (
    PATIENCE,
    NumberReader,
    numbered,
    numbers,
    our_threads,
    until_error,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


class TestWorkers:
    def test_each_has_a_thread_and_order_is_kept_when_they_are_not_equally_fast(self):
        slow, fast = NumberReader(), NumberReader()
        slow.pause = 0.003
        reader = NumberReader(slow, fast)
        assert numbers(Stream(reader, numbered(120), policy="every")) == list(range(120))
        assert reader.classified == []
        assert sorted(slow.classified + fast.classified) == list(range(120))
        assert 0 < len(slow.classified) < len(fast.classified)

    def test_two_frames_are_in_work_at_once(self):
        together = threading.Barrier(2)

        class Meeting(NumberReader):
            def classify(self, image, *, topk, order):
                together.wait(PATIENCE)
                return super().classify(image, topk=topk, order=order)

        reader = NumberReader(Meeting(), Meeting())
        assert numbers(Stream(reader, numbered(20), policy="every")) == list(range(20))

    def test_without_workers_two_threads_share_the_classifier(self):
        together = threading.Barrier(2)

        class Meeting(NumberReader):
            def classify(self, image, *, topk, order):
                together.wait(PATIENCE)
                return super().classify(image, topk=topk, order=order)

        assert numbers(Stream(Meeting(), numbered(20), policy="every")) == list(range(20))

    @pytest.mark.parametrize("limit", [{}, {"max_frames": 500}])
    def test_short_streams_do_not_wait_for_them(self, limit: dict[str, int]):
        reader = NumberReader(NumberReader())
        reader.workers_error = AssertionError("opened")
        assert len(list(Stream(reader, list(numbered(4)), **limit))) == 4
        assert len(list(Stream(reader, numbered(500), policy="every", max_frames=WORKERS_PAY_FROM - 1))) > 4

    @pytest.mark.parametrize("limit", [{}, {"max_frames": WORKERS_PAY_FROM}])
    def test_long_ones_and_those_of_unknown_length_open_them(self, limit: dict[str, int]):
        worker = NumberReader()
        assert len(list(Stream(NumberReader(worker), numbered(3), policy="every", **limit))) == 3
        assert len(list(Stream(NumberReader(worker), list(numbered(WORKERS_PAY_FROM)), **limit))) == WORKERS_PAY_FROM
        assert worker.classified == [*range(3), *(number % 256 for number in range(WORKERS_PAY_FROM))]

    def test_the_latest_frame_needs_none(self):
        reader = NumberReader(NumberReader())
        reader.workers_error = AssertionError("opened")
        assert numbers(Stream(reader, numbered(1), policy="latest")) == [0]

    def test_an_error_while_they_open_is_the_streams(self, reader: NumberReader):
        reader.workers_error = EngineError("out of memory")
        predictions = Stream(reader, numbered(5), policy="every")
        with pytest.raises(EngineError, match="out of memory"):
            next(predictions)

    @pytest.mark.parametrize("error", [EngineError("overflow"), KeyboardInterrupt(), MemoryError()])
    def test_an_error_in_one_comes_after_the_frames_before_it(self, error: BaseException):
        workers = [NumberReader(), NumberReader(), NumberReader()]
        for worker in workers:
            worker.error = error
            worker.fails_at = 41
        predictions = Stream(NumberReader(*workers), numbered(120), policy="every")
        assert numbers(itertools.islice(predictions, 41)) == list(range(41))
        with pytest.raises(type(error)):
            next(predictions)

    @pytest.mark.filterwarnings("ignore:the stream was not closed:ResourceWarning")
    def test_a_collection_in_a_thread_of_the_stream_ends_it_quietly(self, reader: NumberReader):
        """An abandoned stream in a cycle is closed by whichever thread the garbage collector runs in."""
        abandoned = threading.Event()

        def frames() -> Iterator[np.ndarray]:
            yield clips.numbered_frame(0)
            assert abandoned.wait(PATIENCE)
            gc.collect()
            yield clips.numbered_frame(1)

        cycle: dict[str, object] = {"predictions": Stream(reader, frames(), policy="every")}
        cycle["itself"] = cycle
        next(cycle["predictions"])  # type: ignore[call-overload]
        gc.disable()
        try:
            del cycle
            abandoned.set()
            for thread in our_threads():
                thread.join(PATIENCE)
        finally:
            gc.enable()
        assert our_threads() == []


class Batching(NumberReader):
    """A worker that takes several frames at once."""

    def __init__(self, batch: int = 4) -> None:
        super().__init__()
        self.batch = batch
        self.batches: list[int] = []

    def classify_batch(self, images, *, topk):
        self.batches.append(len(images))
        return [self._outcome(image, topk, order) for image, order in images]

    def _outcome(self, image, topk, order):
        try:
            return self.classify(image, topk=topk, order=order)
        except FrameSourceError as error:
            return error


class TestBatches:
    def test_are_full_and_keep_the_order(self):
        workers = [Batching(), Batching()]
        workers[0].pause = 0.001
        workers[1].pause = 0.002
        predictions = list(Stream(NumberReader(*workers), numbered(101), policy="every"))
        assert numbers(predictions) == [each.frame for each in predictions] == list(range(101))
        assert {size for worker in workers for size in worker.batches} == {4}
        assert sum(len(worker.batches) for worker in workers) > 12

    def test_a_frame_that_is_refused_fails_alone(self):
        worker = Batching()
        worker.error, worker.fails_at = FrameSourceError("a grey frame"), 42
        predictions = Stream(NumberReader(worker), numbered(120), policy="every")
        assert numbers(itertools.islice(predictions, 42)) == list(range(42))
        with pytest.raises(FrameSourceError, match="grey"):
            next(predictions)

    @pytest.mark.parametrize("error", [EngineError("overflow"), MemoryError()])
    def test_an_error_of_the_engine_comes_after_the_frames_before_the_batch(self, error: BaseException):
        worker = Batching()
        worker.error, worker.fails_at = error, 42
        seen, found = until_error(Stream(NumberReader(worker), numbered(120), policy="every"))
        assert found is error
        assert seen == list(range(len(seen)))
        assert 42 - 4 < len(seen) <= 42

    def test_frames_that_are_too_old_are_dropped_from_them(self):
        worker = Batching()
        worker.pause = 0.02
        stream = Stream(NumberReader(worker), numbered(60), policy="every", max_age_ms=50.0)
        assert all(each.age_ms <= 50.0 for each in stream)
        assert stream.stats.captured == stream.stats.predicted + stream.stats.dropped["too_old"] == 60
        assert stream.stats.dropped["too_old"] > 0

    def test_a_slow_source_is_not_waited_for(self):
        worker = Batching()
        source = FakeSource([clips.numbered_frame(number) for number in range(6)], fps=50)
        stream = Stream(NumberReader(worker), source, policy="every", max_frames=WORKERS_PAY_FROM)
        source.length = None
        assert numbers(stream) == list(range(6))
        assert worker.batches == []
        assert worker.classified == list(range(6))
