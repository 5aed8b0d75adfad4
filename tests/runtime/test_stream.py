"""Both policies deliver what they promise, and no end of a stream hangs or leaves a thread behind."""

from __future__ import annotations

import contextlib
import gc
import logging
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
from vitedge.runtime.stream import POLICIES, QUEUED_FRAMES, stream

pytest.importorskip("cv2")
pytest.importorskip("PIL.Image")

import clips

pytestmark = pytest.mark.timeout(60)

PATIENCE = 10.0
EITHER = pytest.mark.parametrize("policy", POLICIES)


STREAM_THREADS = ("vitedge-grab", "vitedge-prepare")


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(STREAM_THREADS)]


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    yield
    gc.collect()
    for thread in our_threads():
        thread.join(PATIENCE)
    assert our_threads() == []


class NumberReader:
    """Stages that read a frame's number; each can be made to fail."""

    def __init__(self) -> None:
        self.prepare_error: BaseException | None = None
        self.infer_error: BaseException | None = None
        self.prepared_in: set[str] = set()
        self.inferred_in: set[str] = set()

    def prepare(self, image, *, order):
        self.prepared_in.add(threading.current_thread().name)
        if self.prepare_error is not None:
            raise self.prepare_error
        return image

    def infer(self, prepared):
        self.inferred_in.add(threading.current_thread().name)
        if self.infer_error is not None:
            raise self.infer_error
        return np.array([clips.number_of(prepared)], dtype=np.float32)

    def rank(self, logits, topk):
        return tuple(Candidate(str(int(logits[0])), place, 1.0) for place in range(topk))


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

        in_flight = 2 * QUEUED_FRAMES + 3  # both queues, one in each thread's hands and one asked for
        with contextlib.closing(stream(reader, frames(), policy="every")) as predictions:
            for consumed, _ in enumerate(predictions, start=1):
                time.sleep(0.002)
                assert len(taken) <= consumed + in_flight

    def test_decoding_and_preprocessing_leave_the_consumers_thread(self, reader: NumberReader):
        list(stream(reader, numbered(5), policy="every"))
        assert reader.prepared_in == {"vitedge-prepare"}
        assert reader.inferred_in == {threading.current_thread().name}

    def test_a_whole_clip(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 80)
        assert numbers(stream(reader, clip)) == list(range(80))


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
    @pytest.mark.parametrize(("live", "prepared_in"), [(True, "MainThread"), (False, "vitedge-prepare")])
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
        source = HeldSource()
        source.arrived.release(3)
        monkeypatch.setattr(stream_module, "open_source", lambda _: source)
        assert len(list(stream(reader, "clip.mp4", policy=policy, max_frames=1))) == 1
        source.arrived.release()
        for thread in our_threads():
            thread.join(PATIENCE)
        assert source.closed == 1

    @EITHER
    def test_what_was_passed_in_open_stays_open(self, reader: NumberReader, policy: str):
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
        assert "vitedge-grab still waits for its source" in caplog.text
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
