"""Frames of containers that behave as no file does: that stall, send sound alone, fail, or are closed meanwhile."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video import decoder
from vitedge.runtime.sources.video.clock import TimestampClock
from vitedge.runtime.sources.video.decoder import LOW_DELAY, Decoded
from vitedge.runtime.sources.video.packets import ContainerPackets

av = pytest.importorskip("av")

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:the source .* was not closed:ResourceWarning"),
]

QUICK = SourceOptions(read_timeout=0.2)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what a test leaves open, which holds nothing real, before another test is blamed for it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


VIDEO, SOUND = 0, 1


def picture(number: int = 0, *, corrupt: bool = False) -> Any:
    frame = av.VideoFrame(16, 8, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([number % 256]) * plane.buffer_size)
    frame.pts, frame.time_base = number, Fraction(1, 30)

    class Marked:
        is_corrupt = corrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(frame, name)

    return Marked() if corrupt else frame


class Packet:
    """A packet of a track, with pictures, or with the error of decoding it."""

    def __init__(self, number: int, pictures: list[Any] | BaseException, *, track: int = VIDEO) -> None:
        self.stream_index, self.size = track, 100
        self.pts, self.duration, self.time_base = number, 1, Fraction(1, 30)
        self.stream: Any = SimpleNamespace(codec_context=SimpleNamespace(width=16, height=8))
        self._pictures = pictures

    def decode(self) -> list[Any]:
        if isinstance(self._pictures, BaseException):
            raise self._pictures
        return self._pictures


class Container:
    """A container whose packets come from an iterator, each of which may raise or wait."""

    def __init__(self, packets: Callable[[], Iterator[Any]], *, name: str = "matroska,webm") -> None:
        self.context = SimpleNamespace(
            width=16, height=8, flags=0, options={}, name="h264", thread_type=None, thread_count=None, framerate=None
        )
        stream = SimpleNamespace(
            codec_context=self.context,
            average_rate=Fraction(30),
            guessed_rate=None,
            frames=0,
            index=VIDEO,
            disposition=av.stream.Disposition(0),
            type="video",
        )
        self.streams: Any = SimpleNamespace(video=(stream,), best=lambda _: stream)
        self.format = SimpleNamespace(name=name)
        self.duration = self.start_time = None
        self.closed = 0
        self._packets = packets

    def demux(self) -> Iterator[Any]:
        return self._packets()

    def close(self) -> None:
        self.closed += 1


def numbered(count: int, seconds: float = 0.0) -> Callable[[], Iterator[Packet]]:
    def packets() -> Iterator[Packet]:
        for number in range(count):
            time.sleep(seconds)
            yield Packet(number, [picture(number)])

    return packets


def live(packets: Callable[[], Iterator[Any]], *, options: SourceOptions = QUICK, **arguments: Any) -> Decoded:
    return Decoded(ContainerPackets(Container(packets), "camera", live=True), options=options, **arguments)


class TestThreads:
    """Each decoding thread more would hold a frame back."""

    @pytest.mark.parametrize(
        ("codec", "asked", "kind", "count"),
        [("h264", None, "NONE", 1), ("h264", 4, "SLICE", 4), ("vp8", 4, "NONE", 1)],  # slices tear VP8
    )
    def test_of_a_live_source(self, codec: str, asked: int | None, kind: str, count: int) -> None:
        container = Container(numbered(1))
        container.context.name = codec
        Decoded(ContainerPackets(container, "camera", live=True), options=SourceOptions(decode_threads=asked))
        assert (container.context.thread_type, container.context.thread_count) == (kind, count)
        assert container.context.flags & LOW_DELAY

    @pytest.mark.parametrize(("asked", "count"), [(None, 0), (2, 2)])
    def test_of_a_file(self, asked: int | None, count: int) -> None:
        container = Container(numbered(1))
        Decoded(ContainerPackets(container, "clip", live=False), options=SourceOptions(decode_threads=asked))
        assert (container.context.thread_type, container.context.thread_count) == ("AUTO", count)
        assert not container.context.flags & LOW_DELAY

    def test_every_decoder_has_a_limit_of_pixels(self) -> None:
        container = Container(numbered(1))
        Decoded(ContainerPackets(container, "clip", live=False))
        assert int(container.context.options["max_pixels"]) == decoder.IMAGE_PIXELS


class TestLive:
    def test_its_end_is_an_error_after_the_frames(self) -> None:
        frames = iter(live(numbered(3)))
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(
            FrameSourceError, match="stopped delivering after 3 frames: the other side ended it"
        ) as raised:
            next(frames)
        assert raised.value.cause == "eof"

    def test_a_read_that_took_too_long_hands_out_nothing(self) -> None:
        def packets() -> Iterator[Packet]:
            yield Packet(0, [picture(0)])
            time.sleep(0.3)
            yield Packet(1, [picture(1)])

        found = []
        frames = iter(live(packets))
        found.append(next(frames))
        with pytest.raises(FrameSourceError, match=r"sent no frame for 0\.2 s") as raised:
            next(frames)
        assert raised.value.cause == "timeout"

    def test_sound_alone_is_no_frame(self) -> None:
        def packets() -> Iterator[Packet]:
            yield Packet(0, [picture(0)])
            for number in range(1000):
                time.sleep(0.02)
                yield Packet(number, [], track=SOUND)

        frames = iter(live(packets))
        next(frames)
        with pytest.raises(FrameSourceError, match="sent no frame"):
            next(frames)

    def test_packets_of_which_nothing_can_be_decoded_end_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoder, "UNDECODABLE_TIMEOUTS", 2.0)

        def packets() -> Iterator[Packet]:
            for number in range(1000):
                time.sleep(0.02)
                yield Packet(number, av.error.InvalidDataError(1094995529, "Invalid data"))

        source = live(packets)
        with pytest.raises(FrameSourceError, match="nothing could be decoded for"):
            list(source)
        assert "not decodable" in source.notices[0]

    def test_an_error_of_reading_is_described_without_its_context(self) -> None:
        def packets() -> Iterator[Packet]:
            yield Packet(0, [picture(0)])
            raise av.error.ConnectionResetError(104, "Connection reset by peer", "rtsp://joe:hunter2@cam/")

        frames = iter(live(packets))
        next(frames)
        with pytest.raises(FrameSourceError, match="Connection reset") as raised:
            next(frames)
        assert (raised.value.cause, raised.value.__context__) == ("network", None)
        assert "hunter2" not in str(raised.value)

    def test_corrupt_frames_are_marked_and_counted(self) -> None:
        def packets() -> Iterator[Packet]:
            for number in range(4):
                yield Packet(number, [picture(number, corrupt=number == 2)])

        source = live(packets)
        found = []
        with pytest.raises(FrameSourceError):
            found.extend(source)
        source = live(packets)
        frames = iter(source)
        assert [next(frames).corrupt for _ in range(4)] == [False, False, True, False]
        assert source.notices == ("camera: 1 frame was damaged",)

    def test_packets_that_cannot_be_decoded_are_skipped_and_counted(self) -> None:
        def packets() -> Iterator[Packet]:
            for number in range(4):
                good: list[Any] | BaseException = [picture(number)]
                yield Packet(number, good if number % 2 else av.error.InvalidDataError(1094995529, "Invalid data"))

        source = live(packets)
        frames = iter(source)
        assert [next(frames).pts for _ in range(2)] == pytest.approx([0.0, 2 / 30])
        assert source.notices == ("camera: 2 frames were not decodable and left out",)

    def test_times_come_from_the_clock(self) -> None:
        source = live(numbered(30, 0.01), clock=TimestampClock(), options=SourceOptions())
        frames = iter(source)
        found = [next(frames) for _ in range(30)]
        assert {frame.age_basis for frame in found} == {"timestamps"}
        steps = np.diff([frame.captured_ns for frame in found[5:]])
        assert found[-1].captured_ns <= time.monotonic_ns()
        assert steps.min() >= 0

    @pytest.mark.parametrize(("format_name", "asked"), [("rtsp", True), ("hls", False)])
    def test_the_senders_clock_is_asked_for(self, format_name: str, asked: bool) -> None:
        container = Container(numbered(3), name=format_name)
        container.start_time_realtime = None  # type: ignore[attr-defined]
        clock = TimestampClock()
        told: list[int] = []
        clock.sender_says = told.append  # type: ignore[method-assign]
        frames = iter(Decoded(ContainerPackets(container, "camera", live=True), options=QUICK, clock=clock))
        next(frames)
        assert told == []
        container.start_time_realtime = 1_000_000 * 1_700_000_000  # type: ignore[attr-defined]
        next(frames)
        next(frames)
        assert len(told) == asked

    def test_planes_of_the_decoder_are_kept(self) -> None:
        frame = next(iter(live(numbered(1))))
        assert frame.pixels.y.shape == (8, 16)
        assert frame.image.shape == (8, 16, 3)


class TestClose:
    def test_nobody_reads(self) -> None:
        container = Container(numbered(3))
        source = Decoded(ContainerPackets(container, "camera", live=True))
        source.close()
        source.close()
        assert container.closed == 1
        assert list(source) == []

    def test_between_two_frames(self) -> None:
        container = Container(numbered(3))
        source = Decoded(ContainerPackets(container, "camera", live=True))
        frames = iter(source)
        next(frames)
        source.close()
        assert container.closed == 1
        assert list(frames) == []

    def test_during_a_read_it_returns_and_the_reader_frees_the_camera(self) -> None:
        began, answer = threading.Event(), threading.Event()

        def packets() -> Iterator[Packet]:
            began.set()
            answer.wait(30)
            yield Packet(0, [picture(0)])

        container = Container(packets)
        source = Decoded(ContainerPackets(container, "camera", live=True))
        found: list[Any] = []
        reader = threading.Thread(target=lambda: found.extend(source), daemon=True)
        reader.start()
        assert began.wait(30)
        source.close()
        assert container.closed == 0
        answer.set()
        reader.join(30)
        assert (container.closed, found, reader.is_alive()) == (1, [], False)

    def test_an_error_after_close_is_nobodys(self) -> None:
        began, answer = threading.Event(), threading.Event()

        def packets() -> Iterator[Packet]:
            began.set()
            answer.wait(30)
            raise av.error.ExitError(1414092869, "Immediate exit requested")
            yield

        container = Container(packets)
        source = Decoded(ContainerPackets(container, "camera", live=True))
        errors: list[BaseException] = []

        def read() -> None:
            try:
                list(source)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert began.wait(30)
        source.close()
        answer.set()
        reader.join(30)
        assert (errors, container.closed) == ([], 1)

    def test_one_that_nobody_closed_is_freed_with_a_warning(self) -> None:
        container = Container(numbered(1))
        held = [Decoded(ContainerPackets(container, "camera", live=True))]
        with pytest.warns(ResourceWarning, match="the source camera was not closed"):
            held.clear()
        assert container.closed == 1

    def test_a_container_without_video_is_closed(self) -> None:
        container = Container(numbered(1))
        container.streams = type("Streams", (list,), {"video": ()})()
        with pytest.raises(FrameSourceError, match="has no video track; it holds nothing"):
            Decoded(ContainerPackets(container, "camera", live=True))
        assert container.closed == 1

    def test_in_a_forked_child_it_is_refused(self) -> None:
        source = Decoded(ContainerPackets(Container(numbered(1)), "camera", live=True))
        child = os.fork()
        if child == 0:
            try:
                list(source)
            except FrameSourceError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("frames", "seconds", "packets", "noticed"),
    [
        (300, 10.0, 300, False),
        (300, 10.0, 150, True),
        (300, 5.0, 150, False),  # an estimated number of frames, but read until the end
        (0, 10.0, 150, True),  # the format counts none
        (0, 5.0, 149, False),
        (300, 10.0, 299, False),  # may be one off
        (0, 0.0, 20, False),  # it says nothing about its length
    ],
)
def test_cut_off_means_too_few_frames_and_too_early(frames: int, seconds: float, packets: int, noticed: bool) -> None:
    container = Container(numbered(packets))
    container.streams.video[0].frames = frames
    container.duration = int(seconds * 1e6) or None  # type: ignore[assignment]
    source = Decoded(ContainerPackets(container, "clip", live=False), options=SourceOptions(planes=True))
    assert sum(1 for _ in source) == packets
    assert any("cut off" in notice for notice in source.notices) is noticed


@pytest.mark.parametrize("rate", [None, Fraction(0), Fraction(90_000), Fraction(1_000_000)])
def test_a_frame_rate_that_cannot_be_is_unknown(rate: Fraction | None) -> None:
    container = Container(numbered(1))
    container.streams.video[0].average_rate = rate
    assert Decoded(ContainerPackets(container, "clip", live=False)).fps is None
