"""A live source that was online is opened again, when and as long as its policy says so."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from vitedge.errors import Cause, EngineError, FrameSourceError, UsageError
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.options import CameraOptions, SourceOptions
from vitedge.runtime.stream import opening as opening_module
from vitedge.runtime.stream import reader as reader_module
from vitedge.runtime.stream.reconnect import PERMANENT, Reconnect
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeCamera, FakeSource

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import PATIENCE, NumberReader, no_threads, numbered, until, until_error

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]

AT_ONCE = Reconnect(first_delay=0.0, longest_delay=0.0)
PASSING: tuple[Cause, ...] = ("refused", "timeout", "tls", "device_busy", "unplugged", "network", "eof")


def error_of(cause: Cause | None) -> FrameSourceError:
    return FrameSourceError("it fails", cause=cause)


@pytest.fixture
def camera() -> FakeCamera:
    return FakeCamera(lambda index: clips.numbered_frame(index % 256), fps=500.0)


class TestPolicy:
    @pytest.mark.parametrize("cause", PASSING)
    def test_causes_that_pass_are_retried(self, cause: Cause):
        assert Reconnect().retries(error_of(cause))

    @pytest.mark.parametrize("cause", PERMANENT)
    def test_causes_that_stay_are_retried_only_if_asked(self, cause: Cause):
        assert not Reconnect().retries(error_of(cause))
        assert Reconnect(also=(cause,)).retries(error_of(cause))

    @pytest.mark.parametrize("error", [None, EngineError("no source"), OSError("of the caller's own")])
    def test_ends_and_other_errors_are_not_retried(self, error: BaseException | None):
        assert not Reconnect().retries(error)

    def test_an_unplugged_device_may_be_missing_for_a_while(self):
        assert Reconnect().retries(error_of("not_found"), lost_by="unplugged")
        assert Reconnect().retries(error_of("permission"), lost_by="unplugged")
        assert not Reconnect().retries(error_of("auth"), lost_by="unplugged")
        assert not Reconnect().retries(error_of("not_found"), lost_by="eof")

    def test_delays_double_up_to_the_longest_and_vary_by_half(self):
        policy = Reconnect(first_delay=0.1, longest_delay=1.0)
        assert [policy.delay(failures, 1.0) for failures in range(7)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        assert policy.delay(3, 0.0) == 0.2
        assert policy.delay(10**9, 1.0) == 1.0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"first_delay": -1.0},
            {"longest_delay": math.nan},
            {"longest_delay": math.inf},
            {"attempts": 0},
            {"also": ("eof",)},
            {"also": "auth"},
            {"also": ("oauth",)},
        ],
    )
    def test_wrong_values_are_errors(self, wrong: dict[str, object]):
        with pytest.raises(UsageError):
            Reconnect(**wrong)

    @pytest.mark.parametrize("wrong", [5, 1, 0, 0.0, "yes", [], {"attempts": 5}])
    def test_what_only_looks_true_or_false_is_an_error(self, reader: NumberReader, wrong: object):
        with pytest.raises(UsageError, match="reconnect is"):
            Stream(reader, "test://", reconnect=wrong)  # type: ignore[arg-type]


class TestStream:
    @pytest.mark.parametrize("policy", ["latest", "every"])
    def test_a_lost_camera_goes_on_with_the_next_number(self, reader: NumberReader, camera: FakeCamera, policy: str):
        with Stream(reader, camera.open, policy=policy, reconnect=AT_ONCE) as stream:
            before = next(stream)
            camera.fail("eof")
            assert until(lambda: stream.state == "offline")
            camera.come_back()
            after = next(each for each in stream if each.epoch)
        assert (before.epoch, after.epoch) == (0, 1)
        assert after.frame > before.frame
        assert after.frame >= stream.stats.captured - 20  # not from the start of its connection
        assert stream.stats.reconnects == 1
        assert stream.notices[-1] == "the fake camera was lost and opened again"
        assert no_threads()
        assert all(source.closed for source in camera.sources)

    def test_presentation_times_begin_anew(self, reader: NumberReader):
        camera = FakeCamera(lambda index: Frame(clips.numbered_frame(0), index, pts=index / 500), fps=500.0)
        with Stream(reader, camera.open, reconnect=AT_ONCE) as stream:
            assert until(lambda: next(stream).pts > 0.05)
            camera.fail("network")
            camera.come_back()
            after = next(each for each in stream if each.epoch)
        assert after.pts < after.frame / 500

    def test_it_is_opened_again_by_default(self, reader: NumberReader, camera: FakeCamera):
        with Stream(reader, camera.open) as stream:
            next(stream)
            camera.fail("eof")
            assert until(lambda: stream.state != "online")
            camera.come_back()
            assert next(each for each in stream if each.epoch).epoch == 1

    def test_it_is_not_if_nobody_wants_it(self, reader: NumberReader, camera: FakeCamera):
        stream = Stream(reader, camera.open, reconnect=False)
        next(stream)
        camera.fail("eof")
        with pytest.raises(FrameSourceError, match="fails: eof"):
            list(stream)
        assert camera.attempts == 1

    @pytest.mark.parametrize("reconnect", [None, False])
    @pytest.mark.parametrize("cause", [*PASSING, *PERMANENT])
    def test_errors_of_the_first_opening_are_raised_at_the_call(
        self, reader: NumberReader, camera: FakeCamera, cause: Cause, reconnect: bool | None
    ):
        camera.fail(cause)
        with pytest.raises(FrameSourceError, match=f"fails: {cause}"):
            Stream(reader, camera.open, reconnect=reconnect)
        assert camera.attempts == 1

    @pytest.mark.parametrize("reconnect", [True, AT_ONCE])
    def test_the_first_opening_is_retried_if_asked(
        self, reader: NumberReader, camera: FakeCamera, reconnect: bool | Reconnect
    ):
        camera.fail("refused")
        with Stream(reader, camera.open, reconnect=reconnect) as stream:
            assert (stream.policy, stream.source.live) == ("latest", True)
            assert until(lambda: stream.state == "offline")
            camera.come_back()
            assert next(stream).epoch == 0
        assert stream.stats.reconnects == 0

    @pytest.mark.parametrize("cause", PERMANENT)
    def test_the_first_opening_is_not_retried_in_vain(self, reader: NumberReader, camera: FakeCamera, cause: Cause):
        camera.fail(cause)
        with pytest.raises(FrameSourceError, match=f"fails: {cause}"):
            Stream(reader, camera.open, reconnect=True)

    @pytest.mark.parametrize("cause", PERMANENT)
    def test_a_camera_that_comes_back_with_another_fault_ends_the_stream(
        self, reader: NumberReader, camera: FakeCamera, cause: Cause
    ):
        stream = Stream(reader, camera.open, reconnect=AT_ONCE)
        next(stream)
        camera.fail("eof")
        assert until(lambda: stream.state == "offline")
        camera.fail(cause)
        with pytest.raises(FrameSourceError, match=f"fails: {cause}") as raised:
            list(stream)
        assert raised.value.cause == cause
        assert stream.state == "ended"

    def test_a_camera_that_boots_may_be_waited_for(self, reader: NumberReader, camera: FakeCamera):
        patient = Reconnect(first_delay=0.0, longest_delay=0.0, also=("not_found",))
        with Stream(reader, camera.open, reconnect=patient) as stream:
            next(stream)
            camera.fail("eof")
            camera.fail("not_found")
            attempts = camera.attempts
            assert until(lambda: camera.attempts > attempts + 3)
            camera.come_back()
            assert next(each for each in stream if each.epoch).epoch == 1

    def test_attempts_may_be_bounded(self, reader: NumberReader, camera: FakeCamera):
        bounded = Reconnect(first_delay=0.0, longest_delay=0.0, attempts=3)
        stream = Stream(reader, camera.open, reconnect=bounded)
        next(stream)
        camera.fail("refused")
        with pytest.raises(FrameSourceError, match="fails: refused; 3 attempts in a row failed") as raised:
            list(stream)
        assert raised.value.cause == "refused"
        assert camera.attempts == 1 + 3

    @pytest.mark.parametrize("policy", ["latest", "every"])
    @pytest.mark.parametrize(
        ("reconnect", "cause"),
        [(AT_ONCE, "auth"), (replace(AT_ONCE, attempts=1), "timeout")],
        ids=["cause", "attempts"],
    )
    def test_its_error_is_raised_although_an_attempt_comes_through_later(
        self,
        reader: NumberReader,
        monkeypatch: pytest.MonkeyPatch,
        reconnect: Reconnect,
        cause: Cause,
        policy: str,
    ):
        monkeypatch.setattr(reader_module, "SHORT_ATTEMPT_SECONDS", 0.05)
        numbers = itertools.count()
        began, ended = threading.Event(), threading.Event()
        short: list[FakeSource] = []

        def opening() -> FrameSource:
            number = next(numbers)
            if number == 0:
                return FakeSource(list(numbered(3)), live=True, error=error_of("eof"))
            if number == 1:
                began.wait(PATIENCE)
                raise error_of(cause)
            began.set()
            ended.wait(PATIENCE)
            short.append(FakeSource(list(numbered(3)), live=True))
            return short[-1]

        with Stream(reader, opening, policy=policy, reconnect=reconnect) as stream:
            next(stream)
            assert until(lambda: stream.state == "ended")
            ended.set()
            assert until(lambda: short and short[0].closed)
            _, error = until_error(stream)
        assert isinstance(error, FrameSourceError)
        assert error.cause == cause
        assert stream.stats.reconnects == 0

    def test_bounds_count_anew_after_a_connection(self, reader: NumberReader, camera: FakeCamera):
        bounded = Reconnect(first_delay=0.01, longest_delay=0.01, attempts=400)
        with Stream(reader, camera.open, reconnect=bounded) as stream:
            for epoch in range(3):
                assert next(each for each in stream if each.epoch == epoch).epoch == epoch
                camera.fail("eof")
                assert until(lambda: stream.state == "offline")
                camera.come_back()
            next(stream)

    def test_a_connection_that_breaks_soon_is_followed_by_a_delay(
        self, reader: NumberReader, camera: FakeCamera, monkeypatch: pytest.MonkeyPatch
    ):
        """Otherwise a camera that drops each connection would be asked for hundreds a second."""
        delays: list[int] = []

        class Watched(Reconnect):
            def delay(self, failures: int, chance: float) -> float:
                delays.append(failures)
                return 0.0

        with Stream(reader, camera.open, reconnect=Watched()) as stream:
            for epoch in range(3):
                next(each for each in stream if each.epoch == epoch)
                camera.fail("eof")
                assert until(lambda lost=epoch: len(delays) > lost)
                camera.come_back()
            assert until(lambda: stream.stats.reconnects == 3)
            assert 1 in delays  # the first was not steady either
            delays.clear()
            monkeypatch.setattr(reader_module, "STEADY_SECONDS", 0.0)
            camera.fail("eof")
            assert until(lambda: delays)
        assert delays[0] == 0

    def test_files_and_iterables_are_not_opened_again(self, reader: NumberReader):
        opened: list[FakeSource] = []

        def opening() -> FrameSource:
            opened.append(FakeSource(list(numbered(3)), error=error_of("eof")))
            return opened[-1]

        with pytest.raises(FrameSourceError, match="it fails"):
            list(Stream(reader, opening, reconnect=True))
        assert len(opened) == 1

    def test_a_source_that_was_passed_in_open_cannot_be(self, reader: NumberReader):
        source = FakeSource(list(numbered(3)), live=True, error=error_of("eof"))
        with pytest.raises(FrameSourceError, match="it fails"):
            list(Stream(reader, source, reconnect=True))

    @pytest.mark.parametrize("error", [OSError("a bug of the source"), EngineError("another")])
    def test_errors_that_are_none_of_a_source_end_the_stream(self, reader: NumberReader, error: Exception):
        def opening() -> FrameSource:
            return FakeSource(list(numbered(3)), live=True, error=error)

        with pytest.raises(type(error)):
            list(Stream(reader, opening, reconnect=True))

    def test_a_live_source_that_comes_to_its_end_ends_the_stream(self, reader: NumberReader):
        with Stream(reader, lambda: FakeSource(list(numbered(3)), live=True), reconnect=True) as stream:
            assert list(stream)[-1].frame == 2

    def test_a_function_may_give_any_source(self, reader: NumberReader):
        with Stream(reader, lambda: numbered(3)) as stream:
            assert [each.frame for each in stream] == [0, 1, 2]

    @pytest.mark.parametrize("act", [Stream.stop, Stream.close])
    def test_a_stream_ends_between_attempts(
        self, reader: NumberReader, camera: FakeCamera, act: Callable[[Stream], None]
    ):
        stream = Stream(reader, camera.open, reconnect=Reconnect(first_delay=3600.0, longest_delay=3600.0))
        next(stream)
        camera.fail("eof")
        assert until(lambda: stream.state != "online")
        act(stream)
        assert list(stream) == []
        assert no_threads()


class TestAddress:
    """What is asked of ``open_source``, first and again."""

    @pytest.fixture
    def asked(self, camera: FakeCamera, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, SourceOptions | None]]:
        asked: list[tuple[object, SourceOptions | None]] = []

        def open_source(source: object, options: SourceOptions | None = None) -> FrameSource:
            asked.append((source, options))
            if source == "a list" and options is not None and options.open_timeout != 7.0:
                raise UsageError("the list says another time")
            opened = camera.open()
            opened.options = CameraOptions(open_timeout=7.0, stall_timeout=3.0, fps=15.0)
            if source == "v4l2:///dev/video0":
                opened.lasting = "/dev/v4l/by-id/cam"
            return opened

        monkeypatch.setattr(opening_module, "open_source", open_source)
        return asked

    def again(self, reader: NumberReader, camera: FakeCamera, source: str) -> None:
        with Stream(reader, source, reconnect=AT_ONCE) as stream:
            next(stream)
            camera.fail("eof")
            camera.come_back()
            assert next(each for each in stream if each.epoch).epoch == 1

    def test_options_in_force_are_asked_for_again(
        self, reader: NumberReader, camera: FakeCamera, asked: list[tuple[object, SourceOptions | None]]
    ):
        self.again(reader, camera, "rtsp://camera/1?fps=15")
        assert asked[0] == ("rtsp://camera/1?fps=15", None)
        assert asked[1] == ("rtsp://camera/1?fps=15", CameraOptions(open_timeout=7.0, stall_timeout=3.0, fps=15.0))

    def test_attempts_have_their_own_time_to_open(
        self, reader: NumberReader, camera: FakeCamera, asked: list[tuple[object, SourceOptions | None]]
    ):
        self.again(reader, camera, "rtsp://camera/1?open_timeout=7&subtype=0")
        assert asked[1][0] == "rtsp://camera/1?subtype=0"

    def test_an_address_in_a_list_keeps_its_own(
        self, reader: NumberReader, camera: FakeCamera, asked: list[tuple[object, SourceOptions | None]]
    ):
        with Stream(reader, "a list", options=SourceOptions(open_timeout=7.0), reconnect=AT_ONCE) as stream:
            next(stream)
            connect = stream._pipeline.reader._connect
            assert connect is not None
            connect(1.0).close()
        assert [options.open_timeout for _, options in asked if options] == [7.0, 1.0, 7.0]

    def test_a_camera_is_found_under_the_path_that_lasts(
        self, reader: NumberReader, camera: FakeCamera, asked: list[tuple[object, SourceOptions | None]]
    ):
        """Its number may be another one after it was plugged in again."""
        self.again(reader, camera, "v4l2:///dev/video0")
        assert [source for source, _ in asked[:2]] == ["v4l2:///dev/video0", "/dev/v4l/by-id/cam"]
