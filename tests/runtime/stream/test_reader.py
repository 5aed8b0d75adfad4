"""A reader notices what stalls or hangs, always has an attempt in flight, and grows in neither memory nor threads."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from vitedge.errors import Cause, FrameSourceError
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.stream import reader as reader_module
from vitedge.runtime.stream.reader import Reader
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.states import StateChange
from vitedge.testing import FakeCamera, FakeSource

pytest.importorskip("av")

import clips
from streams import PATIENCE, our_threads, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]

AT_ONCE = Reconnect(first_delay=0.0, longest_delay=0.0)
FRAME = clips.numbered_frame(0)
SECOND_NS = 1_000_000_000


class Read:
    """A reader, and what it delivers and reports.

    Args:
        connect: opens the source; gets the number of the attempt, from 0, and its timeout.
        first: the source, open.
        reconnect: when to open it again.
        options: timeouts.
    """

    def __init__(
        self,
        connect: Callable[[int, float], FrameSource],
        *,
        first: FrameSource | None = None,
        reconnect: Reconnect = AT_ONCE,
        **options: float,
    ) -> None:
        self.frames: list[Frame] = []
        self.states: list[StateChange] = []
        self.ends: list[BaseException | None] = []
        self.attempts = itertools.count()
        self._connect = connect
        self.reader = Reader(
            self.connect,
            first=first,
            name="the camera",
            deliver=self.deliver,
            finish=self.finish,
            on_state=self.states.append,
            reconnect=reconnect,
            options=SourceOptions(**options),
        )

    def connect(self, open_timeout: float) -> FrameSource:
        return self._connect(next(self.attempts), open_timeout)

    def deliver(self, frame: Frame) -> bool:
        self.frames.append(frame)
        return True

    def finish(self, error: BaseException | None) -> None:
        self.ends.append(error)

    def saw(self, *states: str) -> Callable[[], bool]:
        return lambda: [each.state for each in self.states][-len(states) :] == list(states)

    def __enter__(self) -> Read:
        self.reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.stop()


def opens(camera: FakeCamera) -> Callable[[int, float], FrameSource]:
    return lambda *_: camera.open()


@pytest.fixture
def camera() -> FakeCamera:
    return FakeCamera(lambda _: FRAME, fps=500.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(reader_module, "SHORT_ATTEMPT_SECONDS", 0.05)


class TestStates:
    def test_of_a_camera_that_comes_goes_and_ends(self, camera: FakeCamera):
        with Read(opens(camera)) as read:
            assert until(read.saw("online"))
            camera.fail("refused")
            assert until(read.saw("online", "reconnecting", "offline"))
            camera.fail("timeout")
            assert until(lambda: read.states[-1].cause == "timeout")
            camera.come_back()
            assert until(read.saw("offline", "online"))
        assert [(each.state, each.cause, each.epoch) for each in read.states] == [
            ("online", None, 0),
            ("reconnecting", "refused", 0),
            ("offline", "refused", 0),
            ("offline", "timeout", 0),
            ("online", None, 1),
            ("ended", None, 1),
        ]
        assert read.states[1].message == "the fake camera fails: refused"
        assert read.states[2].attempt == 1
        assert read.states[3].attempt > 1
        assert all(abs(each.when - time.time()) < PATIENCE for each in read.states)
        assert read.ends == []

    def test_of_one_that_fails_for_good(self, camera: FakeCamera):
        with Read(opens(camera)) as read:
            assert until(read.saw("online"))
            camera.fail("auth")
            assert until(read.saw("ended"))
            assert read.states[-1].cause == "auth"
            assert until(lambda: read.ends)
        assert isinstance(read.ends[0], FrameSourceError)
        assert len(read.ends) == 1

    def test_of_one_that_stalls(self, camera: FakeCamera):
        with Read(opens(camera), stall_timeout=0.05, read_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.go_silent()
            assert until(read.saw("stalled"))
            assert read.states[-1].cause == "timeout"
            camera.come_back()
            assert until(read.saw("stalled", "online"))
            camera.go_silent()
            assert until(read.saw("online", "stalled"))
        assert read.reader.stats.stalls == 2
        assert read.reader.stats.reconnects == 0

    def test_a_consumer_that_takes_its_time_is_no_stall(self, camera: FakeCamera):
        with Read(opens(camera), stall_timeout=0.05, read_timeout=0.05) as read:
            held = threading.Event()
            read.deliver = lambda _: held.wait(0.5) or True  # type: ignore[method-assign]
            read.reader._deliver = read.deliver
            time.sleep(0.3)
            held.set()
        assert (read.reader.stats.stalls, read.ends) == (0, [])

    def test_secrets_of_foreign_errors_are_masked(self):
        def connect(*_: object) -> FrameSource:
            raise OSError("rtsp://joe:sesame@camera/1 failed")

        with Read(connect) as read:
            assert until(lambda: read.ends)
        assert "sesame" not in read.states[-1].message
        assert "camera/1 failed" in read.states[-1].message


class TestHanging:
    def test_a_silent_connection_is_given_up_and_opened_again(self, camera: FakeCamera, impatient: None):
        with Read(opens(camera), read_timeout=0.1, stall_timeout=0.05) as read:
            assert until(read.saw("online"))
            camera.go_silent()
            assert until(lambda: camera.attempts > 1)
            camera.come_back()
            assert until(lambda: read.frames[-1].epoch == 1)
        assert any(each.state == "reconnecting" and each.cause == "timeout" for each in read.states)

    def test_a_thread_that_hangs_is_left_behind_and_counted(self, camera: FakeCamera, impatient: None):
        with Read(opens(camera), read_timeout=0.1, open_timeout=0.1, stall_timeout=0.05) as read:
            assert until(read.saw("online"))
            camera.hang()
            assert until(lambda: read.reader.stats.left_behind >= 2)  # that which reads, and then one that opens
            camera.come_back()
            assert until(lambda: read.frames[-1].epoch == 1)
            assert until(lambda: read.reader.stats.left_behind == 0)
        epochs = [frame.epoch for frame in read.frames]
        assert epochs == sorted(epochs)  # what was left behind delivers nothing any more
        assert [frame.index for frame in read.frames] == list(range(len(read.frames)))

    def test_no_more_threads_hang_than_a_bound(self, impatient: None, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(reader_module, "MOST_LEFT_BEHIND", 3)
        camera = FakeCamera(lambda _: FRAME)
        camera.hang()
        with Read(opens(camera), open_timeout=0.01) as read:
            assert until(lambda: read.reader.stats.left_behind == 3)
            time.sleep(0.3)
            assert camera.attempts <= 3
            camera.come_back()
            assert until(read.saw("online"))

    def test_a_source_that_does_not_close_holds_nobody(self, impatient: None):
        released = threading.Event()

        class Stuck(FakeSource):
            def close(self) -> None:
                super().close()
                released.wait(PATIENCE)

        sources: list[Stuck] = []

        def connect(*_: object) -> FrameSource:
            sources.append(Stuck(lambda index: FRAME if index < 3 else None, live=True, fps=1000.0))
            source = sources[-1]
            if len(sources) == 1:
                source._frame_of = lambda index: FRAME if index < 3 else released.wait(PATIENCE)  # type: ignore[assignment]
            return source

        with Read(connect, read_timeout=0.1, stall_timeout=0.05) as read:
            assert until(lambda: len(sources) > 1)
            assert until(lambda: read.frames[-1].epoch == 1)
            released.set()

    def test_a_read_that_hangs_outlives_a_stop_and_closes_its_source(self, camera: FakeCamera):
        with Read(opens(camera)) as read:
            assert until(read.saw("online"))
            camera.hang()
        assert until(lambda: len(read.reader.threads()) == 1)
        assert read.reader.stats.left_behind == 1
        camera.come_back()
        assert until(lambda: read.reader.stats.left_behind == 0)
        assert camera.sources[0].closed

    @pytest.mark.parametrize("live", [True, False])
    def test_a_source_whose_close_ends_its_thread_still_ends_the_reader(self, live: bool):
        class Ending(FakeSource):
            def close(self) -> None:
                super().close()
                raise SystemExit(3)

        with Read(lambda *_: Ending([]), first=Ending([FRAME], live=live)) as read:
            assert until(lambda: read.ends == [None])


class TestAttempts:
    """The first of each is the patient one, and has the whole time; short ones run beside it."""

    @pytest.fixture
    def hangs(self) -> Iterator[threading.Event]:
        """An attempt that hangs waits for it."""
        event = threading.Event()
        yield event
        event.set()

    def test_a_server_that_has_forgotten_an_attempt_gets_another(
        self, camera: FakeCamera, impatient: None, hangs: threading.Event
    ):
        """It accepted a connection while it hung, and never answers that one."""
        timeouts: dict[int, float] = {}

        def connect(number: int, timeout: float) -> FrameSource:
            timeouts[number] = timeout
            if number == 0:
                hangs.wait(PATIENCE)
            return camera.open()

        with Read(connect, first=camera.open(), open_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.fail("eof")
            camera.come_back()
            assert until(lambda: read.frames[-1].epoch == 1)
        assert timeouts[0] == 3600.0
        assert timeouts[1] < 10.0

    def test_a_server_that_is_slow_has_the_whole_time(
        self, camera: FakeCamera, impatient: None, hangs: threading.Event
    ):
        numbers: list[int] = []

        def connect(number: int, _: float) -> FrameSource:
            numbers.append(number)
            if number:
                raise FrameSourceError("too slow", cause="timeout")
            hangs.wait(PATIENCE)
            return camera.open()

        with Read(connect, first=camera.open(), open_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.fail("eof")
            camera.come_back()
            assert until(lambda: len(numbers) > 3)
            hangs.set()
            assert until(lambda: read.frames[-1].epoch == 1)
        assert [each.state for each in read.states] == ["online", "reconnecting", "online", "ended"]

    def test_the_slower_of_two_connections_is_closed(self, camera: FakeCamera, impatient: None, hangs: threading.Event):
        slow: list[FakeSource] = []

        def connect(number: int, _: float) -> FrameSource:
            if number:
                return camera.open()
            hangs.wait(PATIENCE)
            slow.append(FakeSource(lambda _: FRAME, live=True))
            return slow[0]

        with Read(connect, first=camera.open(), open_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.fail("eof")
            camera.come_back()
            assert until(lambda: read.frames[-1].epoch == 1)
            hangs.set()
            assert until(lambda: slow and slow[0].closed)
            seen = len(read.frames)
            assert until(lambda: len(read.frames) > seen + 5)
            assert read.frames[-1].epoch == 1
        assert slow[0].delivered == 0

    @pytest.mark.parametrize(
        ("reconnect", "cause"),
        [(AT_ONCE, "auth"), (replace(AT_ONCE, attempts=1), "timeout")],
        ids=["cause", "attempts"],
    )
    def test_one_that_comes_through_after_the_end_is_closed(
        self, camera: FakeCamera, impatient: None, hangs: threading.Event, reconnect: Reconnect, cause: Cause
    ):
        short: list[FakeSource] = []
        began = threading.Event()

        def connect(number: int, _: float) -> FrameSource:
            if number == 0:
                began.wait(PATIENCE)
                raise FrameSourceError("it fails for good", cause=cause)
            began.set()
            hangs.wait(PATIENCE)
            short.append(FakeSource(lambda _: FRAME, fps=500.0, live=True))
            return short[-1]

        with Read(connect, first=camera.open(), reconnect=reconnect, open_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.fail("eof")
            assert until(lambda: read.ends)
            hangs.set()
            assert until(lambda: not read.reader.threads())
        assert [source.closed for source in short] == [True]
        assert short[0].delivered == 0
        assert {frame.epoch for frame in read.frames} == {0}
        assert (read.states[-1].state, read.states[-1].cause) == ("ended", cause)
        assert read.reader.stats.reconnects == 0

    def test_one_that_came_through_just_before_the_end_is_read_no_further(
        self, camera: FakeCamera, impatient: None, hangs: threading.Event
    ):
        """The patient attempt has failed for good, but the reader does not know it yet."""
        after_end: list[int] = []

        def connect(number: int, _: float) -> FrameSource:
            if number == 0:
                began.wait(PATIENCE)
                raise FrameSourceError("it fails for good", cause="auth")
            began.set()
            hangs.wait(PATIENCE)
            return FakeSource(lambda _: FRAME, fps=500.0, live=True)

        class Slow(Reconnect):
            def retries(self, error: BaseException, *, lost_by: Cause | None = None) -> bool:
                if lost_by is not None:  # the reader asks, after the attempt
                    hangs.set()
                    until(lambda: read.frames[-1].epoch == 1)
                return super().retries(error, lost_by=lost_by)

        class Watched(Read):
            def finish(self, error: BaseException | None) -> None:
                before = len(self.frames)
                time.sleep(0.2)
                after_end.append(len(self.frames) - before)
                super().finish(error)

        began = threading.Event()
        policy = Slow(first_delay=0.0, longest_delay=0.0)
        with Watched(connect, first=camera.open(), reconnect=policy, open_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.fail("eof")
            assert until(lambda: read.ends)
        assert read.frames[-1].epoch == 1
        assert after_end[0] <= 1  # it may be in the reader's hands

    def test_short_attempts_that_fail_at_once_are_paced(
        self, camera: FakeCamera, monkeypatch: pytest.MonkeyPatch, hangs: threading.Event
    ):
        monkeypatch.setattr(reader_module, "SHORT_ATTEMPT_SECONDS", 0.1)
        numbers: list[int] = []

        def connect(number: int, _: float) -> FrameSource:
            numbers.append(number)
            if number == 0:
                hangs.wait(PATIENCE)
            return camera.open()

        with Read(connect, first=camera.open(), open_timeout=3600.0) as read:
            assert until(read.saw("online"))
            camera.fail("refused")
            time.sleep(0.5)
            assert len(numbers) <= 6
            hangs.set()

    def test_an_attempt_that_hangs_ends_with_the_reader(self, camera: FakeCamera):
        camera.hang()
        with Read(opens(camera)) as read:
            assert until(lambda: camera.attempts == 1)
        assert until(lambda: len(read.reader.threads()) == 1)
        camera.come_back()
        assert until(lambda: not read.reader.threads())
        assert all(source.closed for source in camera.sources)
        assert read.frames == []

    def test_the_thread_of_a_lost_connection_opens_and_reads_the_next(self, camera: FakeCamera):
        threads: list[threading.Thread] = []

        def connect(*_: object) -> FrameSource:
            threads.append(threading.current_thread())
            return camera.open()

        with Read(connect) as read:
            for epoch in range(3):
                assert until(lambda epoch=epoch: read.frames and read.frames[-1].epoch == epoch)
                assert len(read.reader.threads()) == 2  # one reads, one watches
                camera.fail("eof")
                assert until(lambda: read.reader.state != "online")
                camera.come_back()
        assert len(set(threads)) == 1


class TestLateFrames:
    def test_frames_that_come_in_a_burst_after_a_stall_are_counted(self):
        held = threading.Event()
        ages = [0.0] * 5 + [3.0, 2.5, 2.0, 1.5, 1.0, 0.0, 0.0, 2.0]

        def frame_of(index: int) -> Frame | None:
            if index == 5:
                held.wait(PATIENCE)
            if index == len(ages):
                return None
            return Frame(FRAME, index, captured_ns=time.monotonic_ns() - int(ages[index] * SECOND_NS))

        with Read(lambda *_: FakeSource(frame_of, live=True), stall_timeout=0.05) as read:
            assert until(lambda: read.reader.state == "stalled")
            held.set()
            assert until(lambda: read.ends)
        assert len(read.frames) == len(ages)
        assert read.reader.stats.late == 5  # not the last: no stall came before it


class TestNotices:
    def test_of_all_connections_are_kept_once_and_bounded(self, camera: FakeCamera):
        class Noticing(FakeSource):
            number = 0
            notices = ()

            def __init__(self) -> None:
                Noticing.number += 1
                super().__init__([FRAME], live=True, error=FrameSourceError("over", cause="eof"))
                self.notices = ("the same", f"number {Noticing.number}")
                self.oriented = 2

        with Read(lambda *_: Noticing()) as read:
            assert until(lambda: read.reader.stats.reconnects > 50)
        notices = read.reader.notices
        assert notices[:2] == ("the same", "number 1")
        assert len(notices) <= reader_module.MOST_NOTICES + 3
        assert notices[-1].startswith("the camera was lost and opened again, ")
        delivered = 2 * len({frame.epoch for frame in read.frames})
        assert read.reader.oriented - delivered in (0, 2)  # the last connection may be stopped before its frame


@pytest.mark.timeout(120)
def test_ten_thousand_attempts_cost_no_memory_and_no_thread(caplog: pytest.LogCaptureFixture):
    """Half of them fail, half deliver a frame and break."""
    caplog.set_level("ERROR", "vitedge")
    numbers = [0]

    def connect(number: int, _: float) -> FrameSource:
        numbers[0] = number
        if number % 2:
            raise FrameSourceError("refused", cause="refused")
        return FakeSource([FRAME], live=True, error=FrameSourceError("over", cause="eof"))

    with Read(connect) as read:
        read.reader._deliver = lambda _: True
        read.reader._on_state = lambda _: None
        before = 0
        while numbers[0] < 10_000:
            time.sleep(0.05)
            assert len(our_threads()) <= 5
            if numbers[0] >= 1_000:
                before = before or living_objects()
        assert living_objects() < before + 500
    assert read.reader.stats.reconnects >= 4_999


@pytest.fixture
def no_cycle_is_found() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_cycle_is_found")
def test_the_pictures_of_lost_connections_are_freed_at_once():
    pictures: list[weakref.ref[object]] = []

    def frame_of(index: int) -> Frame:
        picture = FRAME.copy()
        pictures.append(weakref.ref(picture))
        return Frame(picture, index)

    camera = FakeCamera(frame_of, fps=500.0)
    with Read(opens(camera)) as read:
        read.reader._deliver = lambda _: True
        for epoch in range(1, 6):
            assert until(read.saw("online"))
            camera.fail("eof")
            camera.come_back()
            assert until(lambda epoch=epoch: read.reader.stats.reconnects == epoch)
        assert until(lambda: sum(picture() is not None for picture in pictures) <= 2)


def living_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("cause", ["refused", "timeout"])
def test_an_offline_camera_costs_next_to_no_processor_time(cause: Cause, camera: FakeCamera):
    """A clock of the process, not of the wall: a loop without a wait would use all of it."""
    camera.fail(cause)
    with Read(opens(camera)) as read:
        read.reader._reconnect = Reconnect()
        assert until(lambda: read.reader.state == "offline")
        attempts, used = camera.attempts, time.process_time()
        time.sleep(1.0)
        assert camera.attempts - attempts <= 12
        assert time.process_time() - used < 0.5


def test_a_paced_source_ends_its_wait_at_a_stop():
    def frames() -> Iterator[Frame]:
        yield Frame(FRAME, 0, pts=0.0)
        yield Frame(FRAME, 1, pts=3600.0)

    source = FakeSource(list(frames()))
    seen: list[Frame] = []
    reader = Reader(
        None, first=source, name="a file", deliver=lambda frame: not seen.append(frame), finish=print, paced=True
    )
    reader.start()
    assert until(lambda: seen)
    reader.stop()
    assert until(lambda: not reader.threads())
    assert len(seen) == 1
