"""No end of a stream hangs or leaves a thread behind."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import threading
import time
import traceback
from collections.abc import Iterator

import numpy as np
import pytest

from vitedge.errors import EngineError, FrameSourceError
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.stream import stream as stream_module
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeSource

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import (
    EITHER,
    PATIENCE,
    HeldSource,
    NumberReader,
    no_threads,
    numbered,
    numbers,
    our_threads,
    signal_after,
    unplugged_after,
    until,
    until_error,
)

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.usefixtures("no_thread_survives"),
    pytest.mark.filterwarnings("ignore:the stream was not closed:ResourceWarning"),  # many ends are a dropped stream
]


def leaves_anywhere(chance: random.Random) -> None:
    """One stream that ends somewhere by something; what came until then is a beginning of the frames, in order."""
    workers = [NumberReader() for _ in range(chance.randint(0, 3))]
    reader = NumberReader(*workers)
    count, at = chance.randint(0, 12), chance.randint(0, 12)
    for each in (reader, *workers):
        each.pause = chance.choice([0.0, 0.0, 0.0005])
        each.fails_at = at
    way = chance.choice(["error", "source", "consumer", "close", "drop", "max_frames", "end"])
    for each in (reader, *workers):
        if way == "error":
            each.error = OSError("somewhere")
    frames = unplugged_after(at) if way == "source" else numbered(count)
    predictions = Stream(
        reader, frames, policy="every", max_frames=chance.randint(1, 12) if way == "max_frames" else None
    )
    seen: list[int] = []
    with contextlib.suppress(OSError):
        for prediction in predictions:
            seen.append(int(prediction.label))
            if way in ("consumer", "close", "drop") and len(seen) == at:
                break
    if way == "close":
        predictions.close()
    assert seen == list(range(len(seen)))
    if way == "error":
        assert len(seen) == min(at, count)
    if way in ("source", "end"):
        assert len(seen) == (at if way == "source" else count)


@pytest.mark.parametrize("seed", range(4))
def test_no_way_out_hangs_or_disorders(seed: int):
    chance = random.Random(seed)
    for _ in range(50):
        leaves_anywhere(chance)
        gc.collect(0)
        for thread in our_threads():
            thread.join(PATIENCE)
        assert no_threads()


class TestErrors:
    def test_of_the_source_come_after_its_good_frames(self, reader: NumberReader):
        seen, error = until_error(Stream(reader, unplugged_after(20), policy="every"))
        assert seen == list(range(20))
        assert isinstance(error, OSError)
        assert "unplugged_after" in [entry.name for entry in traceback.extract_tb(error.__traceback__)]

    def test_of_a_live_source_come_after_its_newest_frame(self, reader: NumberReader):
        seen, error = until_error(Stream(reader, unplugged_after(20), policy="latest"))
        assert seen[-1] == 19
        assert isinstance(error, OSError)

    @EITHER
    @pytest.mark.parametrize("shape", [(0, 8, 3), (8, 8)], ids=["zero-size", "grey"])
    def test_of_a_frame_come_after_the_good_ones(self, reader: NumberReader, policy: str, shape: tuple[int, ...]):
        frames = [*numbered(3), np.zeros(shape, dtype=np.uint8), *numbered(3)]
        seen, error = until_error(Stream(reader, frames, policy=policy))
        assert seen[-1] == 2
        assert isinstance(error, FrameSourceError)
        assert error.problem.startswith("frame 3 of the iterable")

    @EITHER
    @pytest.mark.parametrize("error", [FrameSourceError("too small"), EngineError("overflow"), KeyboardInterrupt()])
    def test_of_classification_and_ctrl_c(self, reader: NumberReader, policy: str, error: BaseException):
        reader.error = error
        with pytest.raises(type(error)):
            list(Stream(reader, numbered(500), policy=policy))

    @EITHER
    def test_of_the_consumer(self, reader: NumberReader, policy: str):
        def consume() -> None:
            for _ in Stream(reader, numbered(500), policy=policy):
                raise ValueError("the callback failed")

        with contextlib.suppress(ValueError):
            consume()
        gc.collect()
        assert no_threads()

    @EITHER
    def test_after_an_error_the_iterator_is_at_its_end(self, reader: NumberReader, policy: str):
        predictions = Stream(reader, unplugged_after(1), policy=policy)
        with pytest.raises(OSError, match="unplugged"):
            list(predictions)
        assert list(predictions) == []


class TestLeaving:
    @EITHER
    def test_a_break_ends_the_threads(self, reader: NumberReader, policy: str):
        for _ in Stream(reader, numbered(500), policy=policy):
            assert our_threads() != []
            break
        gc.collect()
        assert no_threads()

    @EITHER
    def test_a_close_ends_the_threads_while_the_source_is_ahead(self, reader: NumberReader, policy: str):
        predictions = Stream(reader, numbered(500), policy=policy)
        next(predictions)
        time.sleep(0.05)
        predictions.close()
        assert no_threads()
        assert list(predictions) == []

    @EITHER
    def test_another_thread_closes_while_the_consumer_waits(self, reader: NumberReader, policy: str):
        source = HeldSource()
        stream = Stream(reader, source, policy=policy)
        seen: list[int] = []
        consumer = threading.Thread(target=lambda: seen.extend(numbers(stream)))
        consumer.start()
        source.arrived.release(3)
        closer = threading.Timer(0.2, stream.close)
        closer.start()
        time.sleep(0.3)
        source.arrived.release()  # the reader asks whether it is still wanted
        consumer.join(PATIENCE)
        closer.join(PATIENCE)
        assert not consumer.is_alive()
        assert seen == sorted(seen)
        assert list(stream) == []

    def test_a_close_ends_a_consumer_whose_frame_no_worker_took(
        self, reader: NumberReader, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(stream_module, "work", lambda *_: None)
        stream = Stream(reader, numbered(500), policy="every")
        consumer = threading.Thread(target=lambda: list(stream), daemon=True)
        consumer.start()
        time.sleep(0.1)
        stream.close()
        consumer.join(PATIENCE)
        assert not consumer.is_alive()

    @pytest.mark.alone
    @EITHER
    def test_a_signal_handler_closes_while_the_consumer_waits(self, reader: NumberReader, policy: str):
        source = HeldSource()
        stream = Stream(reader, source, policy=policy)
        with signal_after(0.2, lambda *_: (stream.close(), source.arrived.release(8))):
            assert list(stream) == []

    def test_a_stream_that_nobody_asked_starts_nothing(self, reader: NumberReader):
        predictions = Stream(reader, numbered(5))
        assert no_threads()
        predictions.close()

    @EITHER
    def test_what_the_stream_opened_it_closes(self, reader: NumberReader, policy: str):
        source = HeldSource()
        source.arrived.release(3)
        assert len(list(Stream(reader, lambda: source, policy=policy, max_frames=1))) == 1
        assert until(lambda: source.closed)  # although it is still waiting for a frame
        source.arrived.release()
        assert no_threads()

    @pytest.mark.parametrize("live", [False, True])
    def test_what_the_stream_opened_it_closes_also_when_nobody_asked(self, reader: NumberReader, live: bool):
        source = FakeSource(list(numbered(5)), live=live)
        with Stream(reader, lambda: source):
            assert live or not source.closed
        assert source.closed

    @EITHER
    def test_leaving_the_with_statement_ends_the_threads(self, reader: NumberReader, policy: str):
        with Stream(reader, numbered(500), policy=policy) as stream:
            next(stream)
            assert our_threads() != []
        assert no_threads()

    @EITHER
    def test_what_was_passed_in_open_stays_open(self, reader: NumberReader, policy: str):
        source = HeldSource()
        source.arrived.release(3)
        assert len(list(Stream(reader, source, policy=policy, max_frames=1))) == 1
        source.arrived.release()
        assert not source.closed


class TestStall:
    @EITHER
    def test_a_live_source_of_the_callers_that_hangs_is_an_error(
        self, reader: NumberReader, policy: str, caplog: pytest.LogCaptureFixture
    ):
        source = HeldSource()
        source.arrived.release()
        stream = Stream(reader, source, policy=policy, options=SourceOptions(read_timeout=0.2, stall_timeout=0.1))
        next(stream)
        with (
            caplog.at_level(logging.WARNING, "vitedge"),
            pytest.raises(FrameSourceError, match=r"the held source delivered nothing for 0\.2 s") as raised,
        ):
            next(stream)
        assert raised.value.cause == "timeout"
        assert "vitedge-reader left behind" in caplog.text
        assert (stream.stats.stalls, stream.stats.left_behind) == (1, 1)
        source.arrived.release()
        assert until(lambda: stream.stats.left_behind == 0)

    def test_a_file_may_take_its_time(self, reader: NumberReader):
        def slow() -> Iterator[np.ndarray]:
            yield clips.numbered_frame(0)
            time.sleep(0.3)
            yield clips.numbered_frame(1)

        short = SourceOptions(read_timeout=0.1, stall_timeout=0.1)
        with Stream(reader, slow(), options=short) as stream:
            assert numbers(stream) == [0, 1]
        assert stream.stats.stalls == 0


class Opened:
    """Opens sources of 500 frames, and keeps them."""

    def __init__(self) -> None:
        self.sources: list[FakeSource] = []

    def __call__(self) -> FakeSource:
        self.sources.append(FakeSource(list(numbered(500)), live=True, fps=1000.0))
        return self.sources[-1]


class TestTheStreamsOwnSource:
    """It is closed on every way out, while whoever caught the error still refers to it."""

    @pytest.fixture
    def opened(self) -> Opened:
        return Opened()

    @EITHER
    @pytest.mark.parametrize("error", [EngineError("overflow"), KeyboardInterrupt()])
    def test_after_an_error_of_the_engine(
        self,
        opened: Opened,
        reader: NumberReader,
        policy: str,
        error: BaseException,
    ):
        reader.error = error
        with pytest.raises(type(error)) as caught:
            list(Stream(reader, opened, policy=policy))
        assert caught.value is error
        assert opened.sources[0].closed

    @EITHER
    def test_after_max_frames(self, opened: Opened, reader: NumberReader, policy: str):
        list(Stream(reader, opened, policy=policy, max_frames=1))
        assert opened.sources[0].closed

    def test_if_workers_do_not_open(self, opened: Opened, reader: NumberReader):
        reader.workers_error = EngineError("no memory")
        with pytest.raises(EngineError, match="no memory"):
            list(Stream(reader, opened, policy="every"))
        assert opened.sources[0].closed

    @EITHER
    def test_if_no_thread_starts(
        self,
        opened: Opened,
        reader: NumberReader,
        policy: str,
        monkeypatch: pytest.MonkeyPatch,
    ):
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            list(Stream(reader, opened, policy=policy))
        assert opened.sources[0].closed

    def test_if_nobody_asks_for_a_prediction(self, opened: Opened, reader: NumberReader):
        Stream(reader, opened).close()
        held = [Stream(reader, opened)]
        held.clear()
        assert until(lambda: [source.closed for source in opened.sources] == [True, True])

    @EITHER
    def test_if_it_does_not_close_the_first_error_stays(
        self,
        opened: Opened,
        reader: NumberReader,
        policy: str,
        monkeypatch: pytest.MonkeyPatch,
    ):
        def refuse(_: FakeSource) -> None:
            raise OSError("does not close")

        monkeypatch.setattr(FakeSource, "close", refuse)
        reader.error = EngineError("overflow")
        with pytest.raises(EngineError, match="overflow"):
            list(Stream(reader, opened, policy=policy))
