"""Every captured frame is predicted, or dropped by one cause; what is old, damaged or out of date is dropped."""

from __future__ import annotations

import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.errors import EngineError
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.stream.stats import DROP_CAUSES, Ledger, StreamStats
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeCamera, FakeSource

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import EITHER, HeldSource, NumberReader, numbered, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]

FRAME = clips.numbered_frame(0)


def balanced(stats: StreamStats) -> bool:
    return stats.captured == stats.predicted + sum(stats.dropped.values()) + stats.under_way


def frames_of(*kinds: str) -> list[Frame]:
    """One frame of each kind: good, corrupt, backlog, or old."""
    now = time.monotonic_ns()
    return [
        Frame(
            clips.numbered_frame(index % 256),
            index,
            captured_ns=now - 10_000_000_000 * (kind == "old"),
            corrupt=kind == "corrupt",
            backlog=kind == "backlog",
        )
        for index, kind in enumerate(kinds)
    ]


class TestCauses:
    KINDS = ("good", "corrupt", "backlog", "old", "good")

    def test_each_is_counted_by_its_own(self, reader: NumberReader):
        with Stream(reader, frames_of(*self.KINDS), max_age_ms=5_000.0) as stream:
            seen = [(each.frame, each.dropped) for each in stream]
        assert seen == [(0, 0), (4, 3)]
        stats = stream.stats
        assert stats.dropped == {**dict.fromkeys(DROP_CAUSES, 0), "corrupt": 1, "backlog": 1, "too_old": 1}
        assert (stats.captured, stats.predicted, stats.under_way, stats.corrupt) == (5, 2, 0, 1)

    def test_corrupt_frames_come_if_they_are_wanted(self, reader: NumberReader):
        with Stream(reader, frames_of(*self.KINDS), skip_corrupt=False) as stream:
            assert [each.frame for each in stream] == [0, 1, 3, 4]
        assert (stream.stats.corrupt, stream.stats.dropped["corrupt"]) == (1, 0)

    def test_a_newer_frame_is_one(self, reader: NumberReader):
        source = HeldSource()
        with Stream(reader, source, policy="latest") as stream:
            source.let(10)
            assert until(lambda: stream.stats.captured == 10)
            assert next(stream).frame == 9
            assert stream.stats.dropped["newer"] == 9
            source.fail(OSError("over"))

    def test_frames_that_nobody_fetched_are_counted_at_the_end(self, reader: NumberReader):
        with Stream(reader, numbered(200), policy="every") as stream:
            next(stream)
            assert until(lambda: stream.stats.under_way > 3)
        stats = stream.stats
        assert stats.dropped["at_end"] == stats.captured - 1 > 3
        assert stats.under_way == 0

    @EITHER
    def test_nothing_is_left_at_the_end_of_a_whole_stream(self, reader: NumberReader, policy: str):
        with Stream(reader, numbered(300), policy=policy) as stream:
            assert sum(1 + each.dropped for each in stream) == 300
        assert (stream.stats.captured, stream.stats.dropped["at_end"]) == (300, 0)

    def test_what_came_before_anybody_asked_is_drained(self, reader: NumberReader):
        """Under either policy: the first prediction of a live source is of a fresh frame."""
        for policy in ("latest", "every"):
            source = HeldSource()
            with Stream(reader, source, policy=policy) as stream:
                source.let(50)
                assert until(lambda stream=stream: stream.stats.captured == 50)
                first = next(stream)
                assert (first.frame, first.dropped) == (49, 49)
                source.fail(OSError("over"))


class TestAge:
    def test_no_prediction_is_older_than_the_limit(self):
        """Whether it waited before it was classified, or while, or for the consumer."""
        reader = NumberReader()
        reader.pause = 0.002
        camera = FakeCamera(lambda index: clips.numbered_frame(index % 256), fps=1000.0)
        for policy in ("latest", "every"):
            with Stream(reader, camera.open, policy=policy, max_age_ms=50.0) as stream:
                ages = []
                for prediction in stream:
                    ages.append(prediction.age_ms)
                    if len(ages) % 10 == 0:
                        time.sleep(0.1)
                    if len(ages) == 40:
                        break
            assert max(ages) <= 50.0
            assert policy == "latest" or stream.stats.dropped["too_old"] > 0
            assert balanced(stream.stats)

    def test_old_frames_are_not_classified(self, reader: NumberReader):
        with Stream(reader, frames_of("old", "good"), max_age_ms=5_000.0) as stream:
            assert [each.frame for each in stream] == [1]
        assert reader.classified == [1]

    def test_a_frame_that_grows_old_in_the_queue_is_dropped_there(self):
        held = threading.Event()

        class Slow(NumberReader):
            def classify(self, image, *, topk, order):
                held.wait(0.5)
                return super().classify(image, topk=topk, order=order)

        reader = Slow(Slow())
        with Stream(reader, numbered(6), policy="every", max_age_ms=300.0) as stream:
            assert list(stream) == []
        assert len(reader.own_workers[0].classified) < 6
        assert stream.stats.dropped["too_old"] == 6


class TestBalance:
    @EITHER
    @pytest.mark.parametrize("seed", range(3))
    def test_at_every_moment_and_however_it_ends(self, policy: str, seed: int):
        chance = random.Random(seed)
        for _ in range(25):
            workers = [NumberReader() for _ in range(chance.randint(0, 3))]
            reader = NumberReader(*workers)
            for each in (reader, *workers):
                each.pause = chance.choice([0.0, 0.001])
                each.error = chance.choice([None, EngineError("overflow")])
                each.fails_at = chance.randint(5, 60)
            stream = Stream(reader, self.mixed(chance), policy=policy, max_age_ms=1_000.0)
            timer = threading.Timer(chance.random() * 0.05, stream.stop)
            timer.start()
            seen = dropped = 0
            try:
                for prediction in stream:
                    seen, dropped = seen + 1, dropped + prediction.dropped
                    assert balanced(stream.stats)
            except (EngineError, OSError):
                pass
            timer.join()
            stats = stream.stats
            assert balanced(stats)
            assert (stats.under_way, stats.predicted) == (0, seen)
            assert stats.captured >= seen + dropped
            stream.close()
            assert stream.stats.captured == stats.captured

    @staticmethod
    def mixed(chance: random.Random) -> FakeSource:
        def frame_of(index: int) -> Frame | None:
            if index == 150:
                return None
            kind = chance.choice(["good"] * 6 + ["corrupt", "backlog", "old"])
            (frame,) = frames_of(kind)
            return Frame(
                clips.numbered_frame(index % 256),
                index,
                captured_ns=frame.captured_ns,
                corrupt=frame.corrupt,
                backlog=frame.backlog,
            )

        return FakeSource(frame_of, live=chance.random() < 0.5, error=chance.choice([None, OSError("unplugged")]))

    @EITHER
    def test_over_reconnections(self, reader: NumberReader, policy: str):
        camera = FakeCamera(lambda index: clips.numbered_frame(index % 256), fps=1000.0)
        with Stream(reader, camera.open, policy=policy) as stream:
            for epoch in range(4):
                before = next(each for each in stream if each.epoch == epoch)
                assert before.frame < stream.stats.captured
                camera.fail("network")
                assert until(lambda: stream.state != "online")
                camera.come_back()
            next(each for each in stream if each.epoch == 4)
        assert balanced(stream.stats)
        assert stream.stats.reconnects == 4

    def test_with_the_end_of_max_frames(self, reader: NumberReader):
        with Stream(reader, numbered(100), policy="every", max_frames=7) as stream:
            assert len(list(stream)) == 7
        assert stream.stats.predicted == 7
        assert balanced(stream.stats)


class TestLedger:
    @given(st.lists(st.sampled_from(["capture", "drop", "predict", "end"]), max_size=60))
    def test_it_balances_whatever_comes(self, events: list[str]):
        ledger = Ledger()
        waiting: list[int] = []
        for event in events:
            if event == "capture":
                waiting.append(ledger.capture())
            elif event == "drop" and waiting:
                waiting.pop(0)
                ledger.drop("newer")
            elif event == "predict" and waiting:
                ledger.predict(waiting.pop(0))
            elif event == "end":
                ledger.end()
            stats = ledger.stats()
            assert balanced(stats)
            assert min(stats.dropped.values()) >= 0
            assert stats.under_way == (0 if "end" in events[: events.index(event) + 1] else stats.under_way)

    def test_predictions_say_what_was_dropped_before_them(self):
        ledger = Ledger()
        for _ in range(6):
            ledger.capture()
        assert [ledger.predict(number) for number in (1, 3, 6)] == [0, 1, 2]

    def test_nothing_is_handed_out_after_the_end(self):
        ledger = Ledger()
        number = ledger.capture()
        ledger.end()
        assert ledger.predict(number) is None
        assert ledger.stats().dropped["at_end"] == 1

    def test_its_rate_is_of_the_last_seconds(self, monkeypatch: pytest.MonkeyPatch):
        clock = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        ledger = Ledger()
        assert ledger.fps == 0.0
        for number in range(1, 101):
            ledger.capture()
            ledger.predict(number)
            clock[0] += 0.04
        assert ledger.fps == pytest.approx(25.0)
        clock[0] += 2.0
        assert 10.0 < ledger.fps < 25.0
        clock[0] += 10.0
        assert ledger.fps == 0.0

    def test_its_counts_are_plain_values(self):
        ledger = Ledger()
        ledger.capture()
        line = ledger.stats().to_json()
        assert (line["version"], line["captured"], line["under_way"]) == (1, 1, 1)
        assert line["dropped"] == dict.fromkeys(DROP_CAUSES, 0)


def test_frames_are_counted_from_the_moment_the_stream_is_made(reader: NumberReader):
    camera = FakeCamera(lambda index: clips.numbered_frame(index % 256), fps=500.0)
    with Stream(reader, camera.open) as stream:
        assert until(lambda: stream.stats.captured > 5)
        assert stream.state == "online"
        assert stream.stats.predicted == 0
