"""Both policies deliver what they promise, and no end of a stream hangs or leaves a thread behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle import Bundle
from vitedge.errors import EngineError, FrameSourceError, UsageError
from vitedge.prediction import Candidate, Prediction
from vitedge.runtime import stream as stream_module
from vitedge.runtime.frames import Frame, FrameSource
from vitedge.runtime.sources import FrameIterable
from vitedge.runtime.stream import LANES_PAY_FROM, POLICIES, QUEUED_FRAMES, stream

pytest.importorskip("cv2")
pytest.importorskip("PIL.Image")

import clips

pytestmark = pytest.mark.timeout(60)

PATIENCE = 10.0
LANES = 2
EITHER = pytest.mark.parametrize("policy", POLICIES)


STREAM_THREADS = ("vitedge-grab", "vitedge-lane")


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(STREAM_THREADS)]


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    yield
    if our_threads():
        gc.collect()
    for thread in our_threads():
        thread.join(PATIENCE)
    assert our_threads() == []


class NumberReader:
    """Stages that read a frame's number; each can be made to fail, at one number or at all."""

    def __init__(self, *lanes: NumberReader) -> None:
        self.own_lanes = lanes
        self.threshold = 0.0
        self.lanes_error: BaseException | None = None
        self.fails_at: int | None = None
        self.pause = 0.0
        self.prepare_error: BaseException | None = None
        self.infer_error: BaseException | None = None
        self.prepared_in: set[str] = set()
        self.inferred_in: set[str] = set()
        self.inferred: list[int] = []

    def prepare(self, image, *, order):
        self.prepared_in.add(threading.current_thread().name)
        if self.prepare_error is not None and self.fails_at in (None, clips.number_of(image)):
            raise self.prepare_error
        return image

    def infer(self, prepared):
        self.inferred_in.add(threading.current_thread().name)
        if self.infer_error is not None and self.fails_at in (None, clips.number_of(prepared)):
            raise self.infer_error
        time.sleep(self.pause)
        self.inferred.append(clips.number_of(prepared))
        return np.array([clips.number_of(prepared)], dtype=np.float32)

    def rank(self, logits, topk):
        return tuple(Candidate(str(int(logits[0])), place, 1.0) for place in range(topk))

    def lanes(self):
        if self.lanes_error is not None:
            raise self.lanes_error
        return self.own_lanes


@pytest.fixture
def reader() -> NumberReader:
    return NumberReader()


def numbered(count: int) -> Iterator[np.ndarray]:
    for number in range(count):
        yield clips.numbered_frame(number)


def numbers(predictions) -> list[int]:
    return [int(prediction.label) for prediction in predictions]


def until_error(predictions: Iterator[Prediction]) -> tuple[list[int], BaseException]:
    """The numbers that came, and the error that ended them."""
    seen: list[int] = []
    try:
        for prediction in predictions:
            seen.append(int(prediction.label))  # noqa: PERF401 - what came before the error is wanted
    except Exception as error:  # noqa: BLE001
        return seen, error
    pytest.fail("the stream ended without an error")


class HeldSource(FrameSource):
    """Live frames that come when the test lets them; remembers that it was closed."""

    name = "the held source"
    live = True

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.closed = 0
        self.error: BaseException | None = None
        self.delivered = 0

    def __iter__(self) -> Iterator[Frame]:
        while self.arrived.acquire():
            if self.error is not None:
                raise self.error
            self.delivered += 1
            yield Frame(clips.numbered_frame(self.delivered - 1), self.delivered - 1)

    def close(self) -> None:
        self.closed += 1

    def let(self, frames: int) -> None:
        """Deliver frames, and wait until the stream has taken them and asked for one more."""
        before = self.delivered
        self.arrived.release(frames)
        deadline = time.monotonic() + PATIENCE
        while self.delivered < before + frames and time.monotonic() < deadline:
            time.sleep(0.001)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.arrived.release()


class TestEvery:
    def test_no_frame_is_lost_and_none_overtakes(self, reader: NumberReader):
        predictions = list(stream(reader, numbered(200), policy="every"))
        assert numbers(predictions) == list(range(200))
        assert [prediction.frame for prediction in predictions] == list(range(200))
        assert {prediction.dropped for prediction in predictions} == {0}

    def test_the_source_waits_for_a_slow_consumer(self, reader: NumberReader):
        taken: list[int] = []

        def frames() -> Iterator[np.ndarray]:
            for number in range(60):
                taken.append(number)
                yield clips.numbered_frame(number)

        in_flight = LANES + QUEUED_FRAMES + 3  # the queue, one in the grabber's hands, one here and one asked for
        with contextlib.closing(stream(reader, frames(), policy="every")) as predictions:
            for consumed, _ in enumerate(predictions, start=1):
                time.sleep(0.002)
                assert len(taken) <= consumed + in_flight

    def test_all_work_leaves_the_consumers_thread(self, reader: NumberReader):
        list(stream(reader, numbered(5), policy="every"))
        assert reader.prepared_in == reader.inferred_in == {"vitedge-lane"}

    def test_a_whole_clip(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 80)
        assert numbers(stream(reader, clip)) == list(range(80))


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


def leaves_anywhere(chance: random.Random) -> None:
    """One stream that ends somewhere by something; what came until then is a beginning of the frames, in order."""
    lanes = [NumberReader() for _ in range(chance.randint(0, 3))]
    reader = NumberReader(*lanes)
    count, at = chance.randint(0, 12), chance.randint(0, 12)
    for each in (reader, *lanes):
        each.pause = chance.choice([0.0, 0.0, 0.0005])
        each.fails_at = at
    way = chance.choice(["prepare_error", "infer_error", "source", "consumer", "close", "drop", "max_frames", "end"])
    for each in (reader, *lanes):
        if way.endswith("error"):
            setattr(each, way, OSError("somewhere"))
    frames = unplugged_after(at) if way == "source" else numbered(count)
    predictions = stream(
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
    if way.endswith("error"):
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
        assert our_threads() == []


class TestLatest:
    def test_the_newest_frame_is_classified_and_the_others_counted(self, reader: NumberReader):
        source = HeldSource()
        predictions = stream(reader, source, policy="latest")
        source.arrived.release()
        first = next(predictions)
        assert (first.label, first.dropped) == ("0", 0)
        source.let(9)
        newest = next(predictions)
        assert newest.frame in (8, 9)  # the tenth frame may still be in the grabber's hands
        assert newest.dropped == newest.frame - 1
        assert newest.label == str(newest.frame)
        source.fail(FrameSourceError("unplugged"))
        with pytest.raises(FrameSourceError, match="unplugged"):
            list(predictions)

    def test_every_frame_is_either_classified_or_counted(self, reader: NumberReader):
        predictions = list(stream(reader, numbered(150), policy="latest"))
        frames = [prediction.frame for prediction in predictions]
        assert frames == sorted(set(frames))
        assert frames == numbers(predictions)
        assert frames[-1] == 149
        assert len(predictions) + sum(prediction.dropped for prediction in predictions) == 150

    def test_a_video_is_played_at_its_own_speed(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 11, fps=50.0)
        begun = time.monotonic()
        predictions = list(stream(reader, clip, policy="latest"))
        assert time.monotonic() - begun >= 10 / 50
        assert predictions[-1].frame == 10
        elapsed = predictions[-1].captured_at - predictions[0].captured_at
        assert elapsed >= (predictions[-1].frame - predictions[0].frame) / 50 - 0.005

    def test_closing_does_not_wait_for_the_next_frame_of_a_video(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 3, fps=0.01)
        predictions = stream(reader, clip, policy="latest")
        next(predictions)
        predictions.close()
        assert our_threads() == []


class TestChoice:
    @pytest.mark.parametrize(("live", "prepared_in"), [(True, "MainThread"), (False, "vitedge-lane")])
    def test_live_sources_give_the_latest_and_others_every_frame(
        self, reader: NumberReader, live: bool, prepared_in: str
    ):
        predictions = list(stream(reader, FrameIterable(list(numbered(3)), live=live)))
        assert predictions[-1].frame == 2
        assert reader.prepared_in == {prepared_in}

    def test_an_unknown_policy_is_an_error_at_the_call(self, reader: NumberReader):
        with pytest.raises(UsageError, match="unknown policy 'lates'") as raised:
            stream(reader, [], policy="lates")
        assert raised.value.fix == "did you mean latest?"

    @pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"topk": 0}])
    def test_counts_below_one_are_an_error_at_the_call(self, reader: NumberReader, wrong: dict[str, int]):
        with pytest.raises(UsageError, match="is 0"):
            stream(reader, [], **wrong)

    def test_a_missing_source_is_an_error_at_the_call(self, reader: NumberReader):
        with pytest.raises(FrameSourceError, match="there is no source"):
            stream(reader, "nowhere.mp4")


class TestPredictions:
    @EITHER
    def test_carry_image_times_and_candidates(self, reader: NumberReader, policy: str):
        (prediction,) = stream(reader, numbered(1), policy=policy, topk=3)
        assert prediction.image is not None
        assert clips.number_of(prediction.image) == 0
        assert len(prediction.topk) == 3
        assert prediction.age_ms >= 0
        assert prediction.stages_ms.total <= prediction.age_ms
        assert abs(prediction.captured_at - time.time()) < PATIENCE

    @EITHER
    def test_age_counts_from_the_capture(self, reader: NumberReader, policy: str):
        second_ago = time.monotonic_ns() - 1_000_000_000
        frame = Frame(clips.numbered_frame(0), 7, captured_at=123.0, captured_ns=second_ago)
        (prediction,) = stream(reader, [frame], policy=policy)
        assert prediction.age_ms >= 1000
        assert (prediction.frame, prediction.captured_at) == (7, 123.0)

    def test_images_are_bgr_whatever_the_source_gives(self, reader: NumberReader):
        red = np.zeros((8, 16, 3), dtype=np.uint8)
        red[..., 0] = 255
        (prediction,) = stream(reader, [Frame(red, 0, order="RGB", file="red.png")])
        assert prediction.image is not None
        assert prediction.image[0, 0].tolist() == [0, 0, 255]
        assert prediction.image.flags.c_contiguous
        assert prediction.file == "red.png"

    @EITHER
    def test_scores_below_the_threshold_abstain(self, reader: NumberReader, policy: str):
        for threshold, abstained in ((1.0, False), (1.5, True)):
            reader.threshold = threshold
            (prediction,) = stream(reader, [clips.numbered_frame(3)], policy=policy)
            assert (prediction.label, prediction.abstained) == ("3", abstained)

    @EITHER
    def test_max_frames(self, reader: NumberReader, policy: str):
        assert len(list(stream(reader, numbered(100), policy=policy, max_frames=1))) == 1
        if policy == "every":
            assert numbers(stream(reader, numbered(100), policy=policy, max_frames=4)) == [0, 1, 2, 3]

    @EITHER
    def test_an_empty_source_gives_none(self, reader: NumberReader, policy: str):
        assert list(stream(reader, [], policy=policy)) == []


def unplugged_after(frames: int) -> Iterator[np.ndarray]:
    yield from numbered(frames)
    raise OSError("unplugged")


class TestErrors:
    def test_of_the_source_come_after_its_good_frames(self, reader: NumberReader):
        seen, error = until_error(stream(reader, unplugged_after(20), policy="every"))
        assert seen == list(range(20))
        assert isinstance(error, OSError)
        assert "unplugged_after" in [entry.name for entry in traceback.extract_tb(error.__traceback__)]

    def test_of_a_live_source_come_after_its_newest_frame(self, reader: NumberReader):
        seen, error = until_error(stream(reader, unplugged_after(20), policy="latest"))
        assert seen[-1] == 19
        assert isinstance(error, OSError)

    @EITHER
    @pytest.mark.parametrize("shape", [(0, 8, 3), (8, 8)], ids=["zero-size", "grey"])
    def test_of_a_frame_come_after_the_good_ones(self, reader: NumberReader, policy: str, shape: tuple[int, ...]):
        frames = [*numbered(3), np.zeros(shape, dtype=np.uint8), *numbered(3)]
        seen, error = until_error(stream(reader, frames, policy=policy))
        assert seen[-1] == 2
        assert isinstance(error, FrameSourceError)
        assert error.problem.startswith("frame 3 of the iterable")

    @EITHER
    def test_of_preprocessing(self, reader: NumberReader, policy: str):
        reader.prepare_error = FrameSourceError("too small")
        with pytest.raises(FrameSourceError, match="too small"):
            list(stream(reader, numbered(50), policy=policy))

    @EITHER
    @pytest.mark.parametrize("error", [EngineError("out of memory"), KeyboardInterrupt()])
    def test_of_inference_and_ctrl_c(self, reader: NumberReader, policy: str, error: BaseException):
        reader.infer_error = error
        with pytest.raises(type(error)):
            list(stream(reader, numbered(500), policy=policy))

    @EITHER
    def test_of_the_consumer(self, reader: NumberReader, policy: str):
        def consume() -> None:
            for _ in stream(reader, numbered(500), policy=policy):
                raise ValueError("the callback failed")

        with contextlib.suppress(ValueError):
            consume()
        gc.collect()
        assert our_threads() == []

    @EITHER
    def test_after_an_error_the_iterator_is_at_its_end(self, reader: NumberReader, policy: str):
        predictions = stream(reader, unplugged_after(1), policy=policy)
        with pytest.raises(OSError, match="unplugged"):
            list(predictions)
        assert list(predictions) == []


class TestLeaving:
    @EITHER
    def test_a_break_ends_the_threads(self, reader: NumberReader, policy: str):
        for _ in stream(reader, numbered(500), policy=policy):
            assert our_threads() != []
            break
        gc.collect()
        assert our_threads() == []

    @EITHER
    def test_a_close_ends_the_threads_while_the_source_is_ahead(self, reader: NumberReader, policy: str):
        predictions = stream(reader, numbered(500), policy=policy)
        next(predictions)
        time.sleep(0.05)
        predictions.close()
        assert our_threads() == []
        assert list(predictions) == []

    def test_a_stream_that_nobody_asked_starts_nothing(self, reader: NumberReader):
        predictions = stream(reader, numbered(5))
        assert our_threads() == []
        predictions.close()

    @EITHER
    def test_what_the_stream_opened_it_closes(self, reader: NumberReader, policy: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(stream_module, "JOIN_SECONDS", 0.1)  # the source is still waiting for a frame
        source = HeldSource()
        source.arrived.release(3)
        monkeypatch.setattr(stream_module, "open_source", lambda _: source)
        assert len(list(stream(reader, "clip.mp4", policy=policy, max_frames=1))) == 1
        source.arrived.release()
        for thread in our_threads():
            thread.join(PATIENCE)
        assert source.closed == 1

    @EITHER
    def test_what_was_passed_in_open_stays_open(
        self, reader: NumberReader, policy: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(stream_module, "JOIN_SECONDS", 0.1)
        source = HeldSource()
        source.arrived.release(3)
        assert len(list(stream(reader, source, policy=policy, max_frames=1))) == 1
        source.arrived.release()
        assert source.closed == 0


class TestStall:
    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream_module, "STALL_SECONDS", 0.2)
        monkeypatch.setattr(stream_module, "JOIN_SECONDS", 0.1)

    @EITHER
    def test_a_live_source_that_hangs_is_an_error(
        self, reader: NumberReader, policy: str, caplog: pytest.LogCaptureFixture
    ):
        source = HeldSource()
        source.arrived.release()
        predictions = stream(reader, source, policy=policy)
        next(predictions)
        with (
            caplog.at_level(logging.WARNING, "vitedge"),
            pytest.raises(FrameSourceError, match=r"the held source delivered nothing for 0\.2 s"),
        ):
            next(predictions)
        assert "vitedge-grab still waits" in caplog.text
        source.arrived.release()

    def test_a_file_may_take_its_time(self, reader: NumberReader):
        def slow() -> Iterator[np.ndarray]:
            yield clips.numbered_frame(0)
            time.sleep(0.5)
            yield clips.numbered_frame(1)

        assert numbers(stream(reader, slow())) == [0, 1]


@pytest.mark.parametrize("name", ["numbered-720p.mp4", "numbered-360p.mkv"])
def test_real_clips_lose_no_frame(name: str, reader: NumberReader, shared_data: Path):
    clip = shared_data / "video" / name
    expected = clips.read_clip(clip)
    count = 0
    for prediction in stream(reader, clip, policy="every"):
        assert prediction.frame == count
        assert prediction.image is not None
        assert np.array_equal(prediction.image, expected[count])
        count += 1
    assert count == len(expected) == 180


def test_a_real_clip_as_a_camera(reader: NumberReader, shared_data: Path):
    clip = shared_data / "video" / "numbered-360p.mkv"
    expected = clips.read_clip(clip)
    predictions = list(stream(reader, clip, policy="latest", max_frames=20))
    for prediction in predictions:
        assert np.array_equal(prediction.image, expected[prediction.frame])
    seen = [prediction.frame for prediction in predictions]
    assert seen == sorted(set(seen))
    assert seen[-1] == sum(prediction.dropped + 1 for prediction in predictions) - 1


def test_a_real_bundle(tiny_bundle: Bundle, colour_frame):
    from vitedge.runtime.classifier import load

    colours = ["red", "green", "blue", "green"]
    with load(tiny_bundle) as classifier:
        frames = [colour_frame(colour, height=48, width=64) for colour in colours]
        assert [prediction.label for prediction in classifier.stream(frames)] == colours
        red = colour_frame("red")
        (prediction,) = classifier.stream([Frame(np.ascontiguousarray(red[..., ::-1]), 0, order="RGB")])
        direct: Prediction = classifier.classify(red)
    assert (prediction.label, prediction.topk) == ("red", direct.topk)
