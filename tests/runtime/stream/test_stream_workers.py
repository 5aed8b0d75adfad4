"""Streams of every frame through several engines: as fast as they come, in order all the same."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from vitedge.errors import EngineError
from vitedge.runtime.stream.stream import LANES_PAY_FROM, stream

pytest.importorskip("cv2")
pytest.importorskip("PIL.Image")

import clips
from streams import (
    PATIENCE,
    NumberReader,
    numbered,
    numbers,
    our_threads,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


class TestLanes:
    def test_each_has_a_thread_and_order_is_kept_when_they_are_not_equally_fast(self):
        slow, fast = NumberReader(), NumberReader()
        slow.pause = 0.003
        reader = NumberReader(slow, fast)
        assert numbers(stream(reader, numbered(120), policy="every")) == list(range(120))
        assert reader.inferred == []
        assert sorted(slow.inferred + fast.inferred) == list(range(120))
        assert 0 < len(slow.inferred) < len(fast.inferred)

    def test_two_frames_are_in_work_at_once(self):
        together = threading.Barrier(2)

        class Meeting(NumberReader):
            def infer(self, prepared):
                together.wait(PATIENCE)
                return super().infer(prepared)

        reader = NumberReader(Meeting(), Meeting())
        assert numbers(stream(reader, numbered(20), policy="every")) == list(range(20))

    def test_without_lanes_one_frame_is_prepared_while_another_infers_and_never_are_two_inferred(self):
        preparing, inferring = threading.Event(), threading.Lock()

        class Alone(NumberReader):
            def prepare(self, image, *, order):
                if clips.number_of(image) == 1:
                    preparing.set()
                return super().prepare(image, order=order)

            def infer(self, prepared):
                assert inferring.acquire(blocking=False)
                assert preparing.wait(PATIENCE)
                time.sleep(0.001)
                inferring.release()
                return super().infer(prepared)

        assert numbers(stream(Alone(), numbered(20), policy="every")) == list(range(20))

    def test_the_time_of_a_stage_has_no_waiting_in_it(self, monkeypatch: pytest.MonkeyPatch):
        """By a clock that goes on in the engine alone: who waits there for the other's turn would count both turns."""
        now = 0

        class Ticking(NumberReader):
            def infer(self, prepared):
                nonlocal now
                time.sleep(0.005)  # so that the other thread has come to the engine as well
                now += 7_000_000
                return super().infer(prepared)

        monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
        times = [each.stages_ms.infer for each in stream(Ticking(), numbered(8), policy="every")]
        assert times == [7.0] * 8

    @pytest.mark.parametrize("limit", [{}, {"max_frames": 500}])
    def test_short_streams_do_not_wait_for_them(self, limit: dict[str, int]):
        reader = NumberReader(NumberReader())
        reader.lanes_error = AssertionError("opened")
        assert len(list(stream(reader, list(numbered(4)), **limit))) == 4
        assert len(list(stream(reader, numbered(500), policy="every", max_frames=LANES_PAY_FROM - 1))) > 4

    @pytest.mark.parametrize("limit", [{}, {"max_frames": LANES_PAY_FROM}])
    def test_long_ones_and_those_of_unknown_length_open_them(self, limit: dict[str, int]):
        lane = NumberReader()
        assert len(list(stream(NumberReader(lane), numbered(3), policy="every", **limit))) == 3
        assert len(list(stream(NumberReader(lane), list(numbered(LANES_PAY_FROM)), **limit))) == LANES_PAY_FROM
        assert lane.inferred == [*range(3), *range(LANES_PAY_FROM)]

    def test_the_latest_frame_needs_none(self):
        reader = NumberReader(NumberReader())
        reader.lanes_error = AssertionError("opened")
        assert numbers(stream(reader, numbered(1), policy="latest")) == [0]

    def test_an_error_while_they_open_is_the_streams(self, reader: NumberReader):
        reader.lanes_error = EngineError("out of memory")
        predictions = stream(reader, numbered(5), policy="every")
        with pytest.raises(EngineError, match="out of memory"):
            next(predictions)

    @pytest.mark.parametrize("stage", ["prepare_error", "infer_error"])
    @pytest.mark.parametrize("error", [EngineError("overflow"), KeyboardInterrupt(), MemoryError()])
    def test_an_error_in_one_comes_after_the_frames_before_it(self, stage: str, error: BaseException):
        lanes = [NumberReader(), NumberReader(), NumberReader()]
        for lane in lanes:
            setattr(lane, stage, error)
            lane.fails_at = 41
        predictions = stream(NumberReader(*lanes), numbered(120), policy="every")
        assert numbers(itertools.islice(predictions, 41)) == list(range(41))
        with pytest.raises(type(error)):
            next(predictions)

    def test_a_collection_in_a_thread_of_the_stream_ends_it_quietly(self, reader: NumberReader):
        """An abandoned stream in a cycle is closed by whichever thread the garbage collector runs in."""
        abandoned = threading.Event()

        def frames() -> Iterator[np.ndarray]:
            yield clips.numbered_frame(0)
            assert abandoned.wait(PATIENCE)
            gc.collect()
            yield clips.numbered_frame(1)

        cycle: dict[str, object] = {"predictions": stream(reader, frames(), policy="every")}
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
