"""A stream stops at once, whatever its source, its engine or the application does at that moment.

Each test lets go what hangs only after the stream has ended.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.runtime.stream import predictions as predictions_module
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeCamera

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import EITHER, PATIENCE, NumberReader, no_threads, numbered, numbers, signal_after, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]

FRAME = clips.numbered_frame(1)


class Hanging:
    """What hangs until the test lets it go.

    Attributes:
        source: the source, or a function that opens it.
        let_go: lets it go.
    """

    def __init__(self, source: object, let_go: Callable[[], object]) -> None:
        self.source = source
        self.let_go = let_go


def in_a_system_call() -> Hanging:
    """A driver: Python cannot interrupt it, and closing the source does not either."""
    reading, writing = os.pipe()

    class Blocked(FrameSource):
        name = "blocked"
        live = True

        def __iter__(self) -> Iterator[Frame]:
            yield Frame(FRAME, 0)
            os.read(reading, 1)
            os.close(reading)

        def close(self) -> None:
            """Change nothing."""

    return Hanging(Blocked, lambda: (os.write(writing, b"x"), os.close(writing)))


def in_its_close(*, is_live: bool = True) -> Hanging:
    released = threading.Event()

    class Blocked(FrameSource):
        name = "blocked"
        live = is_live

        def __iter__(self) -> Iterator[Frame]:
            yield Frame(FRAME, 0)
            released.wait(PATIENCE)

        def close(self) -> None:
            released.wait(PATIENCE)

    return Hanging(Blocked, released.set)


def in_an_iterator_of_the_callers(*, live: bool) -> Hanging:
    released = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        yield FRAME
        released.wait(PATIENCE)

    return Hanging(FrameIterable(frames(), live=live), released.set)


def in_the_camera() -> Hanging:
    camera = FakeCamera(lambda _: camera.hang() or FRAME)
    return Hanging(camera.open, camera.come_back)


HANGING = pytest.mark.parametrize(
    "hanging",
    [
        in_a_system_call,
        in_its_close,
        in_the_camera,
        lambda: in_an_iterator_of_the_callers(live=True),
        lambda: in_an_iterator_of_the_callers(live=False),
    ],
    ids=["system call", "close", "camera", "live iterator", "iterator"],
)


class Consumer:
    """A thread that consumes a stream."""

    def __init__(self, stream: Stream) -> None:
        self.seen: list[int] = []
        self.thread = threading.Thread(target=lambda: self.seen.extend(numbers(stream)), daemon=True)
        self.thread.start()

    def ends(self) -> bool:
        self.thread.join(PATIENCE)
        return not self.thread.is_alive()


class TestSources:
    @HANGING
    @EITHER
    @pytest.mark.parametrize("act", [Stream.stop, Stream.close])
    def test_that_hang_hold_nobody(
        self, reader: NumberReader, hanging: Callable[[], Hanging], policy: str, act: Callable[[Stream], None]
    ):
        held = hanging()
        stream = Stream(reader, held.source, policy=policy)
        consumer = Consumer(stream)
        assert until(lambda: stream.stats.predicted == 1)
        act(stream)
        assert consumer.ends()
        assert (stream.stats.left_behind > 0, stream.state) == (True, "ended")
        assert stream.stats.captured == 1
        held.let_go()
        assert until(lambda: stream.stats.left_behind == 0)
        assert no_threads()

    @pytest.mark.alone
    @HANGING
    @EITHER
    def test_that_hang_do_not_hold_a_signal_handler(
        self, reader: NumberReader, hanging: Callable[[], Hanging], policy: str
    ):
        held = hanging()
        stream = Stream(reader, held.source, policy=policy)
        next(stream)
        with signal_after(0.05, lambda *_: stream.stop()):
            assert list(stream) == []
        held.let_go()
        assert no_threads()

    def test_that_hang_are_not_waited_for_after_a_stop(self, reader: NumberReader, monkeypatch: pytest.MonkeyPatch):
        """Not even for as long as ``close`` waits."""
        monkeypatch.setattr(predictions_module, "CLOSE_SECONDS", 3600.0)
        held = in_a_system_call()
        stream = Stream(reader, held.source)
        consumer = Consumer(stream)
        assert until(lambda: stream.stats.predicted == 1)
        stream.stop()
        assert consumer.ends()
        held.let_go()

    @pytest.mark.parametrize("live", [True, False])
    @pytest.mark.parametrize("act", [Stream.stop, Stream.close])
    def test_that_hang_before_anybody_reads_them_hold_nobody(
        self, reader: NumberReader, act: Callable[[Stream], None], live: bool
    ):
        held = in_its_close(is_live=live)
        stream = Stream(reader, held.source)
        ended = threading.Thread(target=act, args=(stream,), daemon=True)
        ended.start()
        ended.join(PATIENCE / 2)  # its close hangs for longer
        assert not ended.is_alive()
        assert stream.stats.left_behind > 0
        held.let_go()
        assert until(lambda: stream.stats.left_behind == 0)

    def test_that_hang_while_they_open_again(self, reader: NumberReader):
        camera = FakeCamera(lambda _: FRAME)
        stream = Stream(reader, camera.open)
        next(stream)
        camera.fail("eof")
        assert until(lambda: stream.state != "online")
        camera.hang()
        attempts = camera.attempts
        assert until(lambda: camera.attempts > attempts)
        stream.stop()
        assert list(stream) == []
        camera.come_back()
        assert no_threads()
        assert all(source.closed for source in camera.sources)


class TestEngine:
    @EITHER
    @pytest.mark.parametrize("act", [Stream.stop, Stream.close])
    def test_in_the_middle_of_a_frame_holds_nobody(self, policy: str, act: Callable[[Stream], None]):
        entered, released = threading.Event(), threading.Event()

        class Slow(NumberReader):
            def classify(self, image, *, topk, order):
                entered.set()
                released.wait(PATIENCE)
                return super().classify(image, topk=topk, order=order)

        stream = Stream(Slow(), numbered(50), policy=policy)
        consumer = Consumer(stream)
        assert entered.wait(PATIENCE)
        act(stream)
        assert consumer.ends()
        assert consumer.seen == []
        stats = stream.stats
        assert stats.left_behind > 0
        assert stats.captured == sum(stats.dropped.values())
        released.set()
        assert no_threads()
        assert stream.stats.predicted == 0

    def test_that_opens_its_workers_holds_nobody(self):
        entered, released = threading.Event(), threading.Event()

        class Opening(NumberReader):
            def workers(self, *, batches):
                entered.set()
                released.wait(PATIENCE)
                return ()

        stream = Stream(Opening(), numbered(500), policy="every")
        consumer = Consumer(stream)
        assert entered.wait(PATIENCE)
        stream.stop()
        assert consumer.ends()
        released.set()
        assert no_threads()


class TestAnywhere:
    @EITHER
    def test_the_loop_itself_may_stop_it(self, reader: NumberReader, policy: str):
        stream = Stream(reader, numbered(500), policy=policy)
        for _ in stream:
            stream.stop()
        assert stream.stats.predicted == 1
        assert no_threads()

    def test_before_the_first_prediction(self, reader: NumberReader):
        stream = Stream(reader, numbered(5))
        stream.stop()
        stream.stop()
        stream.close()
        assert list(stream) == []
        assert stream.state == "ended"

    def test_after_the_end(self, reader: NumberReader):
        stream = Stream(reader, numbered(5))
        assert len(list(stream)) == 5
        stream.stop()
        assert stream.stats.predicted == 5

    @EITHER
    def test_many_threads_stop_and_close_at_once(self, reader: NumberReader, policy: str):
        stream = Stream(reader, numbered(5000), policy=policy)
        next(stream)
        acts = [threading.Thread(target=act) for act in [stream.stop, stream.close] * 5]
        for each in acts:
            each.start()
        for each in acts:
            each.join(PATIENCE)
        assert not any(each.is_alive() for each in acts)
        assert list(stream) == []

    @pytest.mark.alone
    def test_a_signal_may_come_at_any_moment(self, reader: NumberReader):
        """The handler runs between any two instructions of the consumer, which may hold the locks of the stream."""
        chance = random.Random(0)
        for number in range(80):
            stream = Stream(reader, numbered(200_000), policy="latest" if number % 2 else "every")
            with signal_after(chance.random() * 0.01, lambda *_, stream=stream: stream.stop()):
                for _ in stream:
                    pass
            stats = stream.stats
            assert stats.captured == stats.predicted + sum(stats.dropped.values())

    @pytest.mark.alone
    def test_a_keyboard_interrupt_ends_it(self, reader: NumberReader):
        camera = FakeCamera(lambda _: FRAME)
        stream = Stream(reader, camera.open)
        next(stream)
        camera.go_silent()
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        assert stream.state == "ended"
        assert camera.sources[0].closed
        assert no_threads()

    def test_leaving_a_with_statement_by_an_error_is_not_held(self, reader: NumberReader):
        held = in_a_system_call()

        def run() -> None:
            with Stream(reader, held.source) as stream:
                next(stream)
                raise ValueError("of the app")

        with pytest.raises(ValueError, match="of the app"):
            run()
        held.let_go()
