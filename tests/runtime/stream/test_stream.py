"""Both policies deliver what they promise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.errors import FrameSourceError, UsageError
from vitedge.prediction import Prediction
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.runtime.stream.intake import FUTURE_NS
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeSource

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import (
    EITHER,
    PATIENCE,
    WORKERS,
    HeldSource,
    NumberReader,
    no_threads,
    numbered,
    numbers,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


class TestEvery:
    def test_no_frame_is_lost_and_none_overtakes(self, reader: NumberReader):
        predictions = list(Stream(reader, numbered(200), policy="every"))
        assert numbers(predictions) == list(range(200))
        assert [prediction.frame for prediction in predictions] == list(range(200))
        assert {prediction.dropped for prediction in predictions} == {0}

    def test_the_source_waits_for_a_slow_consumer(self, reader: NumberReader):
        taken: list[int] = []

        def frames() -> Iterator[np.ndarray]:
            for number in range(60):
                taken.append(number)
                yield clips.numbered_frame(number)

        in_flight = WORKERS + 4  # three in the queue, and one in the reader's hands
        with contextlib.closing(Stream(reader, frames(), policy="every")) as predictions:
            for consumed, _ in enumerate(predictions, start=1):
                time.sleep(0.002)
                assert len(taken) <= consumed + in_flight

    def test_frames_that_exist_already_are_read_further_ahead(self, reader: NumberReader):
        class Counted(list):
            taken = 0

            def __iter__(self) -> Iterator[np.ndarray]:
                for frame in super().__iter__():
                    self.taken += 1
                    yield frame

        frames = Counted(numbered(60))
        with Stream(reader, frames, policy="every") as predictions:
            next(predictions)
            until = time.monotonic() + PATIENCE
            while frames.taken <= 1 + WORKERS + 4:
                assert time.monotonic() < until
            assert numbers(predictions) == list(range(1, 60))

    def test_a_whole_clip(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 80)
        assert numbers(Stream(reader, clip)) == list(range(80))


class TestLatest:
    def test_the_newest_frame_is_classified_and_the_others_counted(self, reader: NumberReader):
        source = HeldSource()
        predictions = Stream(reader, source, policy="latest")
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
        predictions = list(Stream(reader, numbered(150), policy="latest"))
        frames = [prediction.frame for prediction in predictions]
        assert frames == sorted(set(frames))
        assert frames == numbers(predictions)
        assert frames[-1] == 149
        assert len(predictions) + sum(prediction.dropped for prediction in predictions) == 150

    def test_a_video_is_played_at_its_own_speed(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 11, fps=50.0)
        begun = time.monotonic()
        predictions = list(Stream(reader, clip, policy="latest"))
        assert time.monotonic() - begun >= 10 / 50
        assert predictions[-1].frame == 10
        elapsed = predictions[-1].captured_at - predictions[0].captured_at
        assert elapsed >= (predictions[-1].frame - predictions[0].frame) / 50 - 0.005

    def test_closing_does_not_wait_for_the_next_frame_of_a_video(self, reader: NumberReader, tmp_path: Path):
        clip = clips.write_clip(tmp_path / "clip.avi", 3, fps=0.01)
        predictions = Stream(reader, clip, policy="latest")
        next(predictions)
        predictions.close()
        assert no_threads()


class TestChoice:
    @pytest.mark.parametrize("live", [True, False])
    def test_live_sources_give_the_latest_and_others_every_frame(self, reader: NumberReader, live: bool):
        stream = Stream(reader, FrameIterable(list(numbered(3)), live=live))
        assert stream.policy == ("latest" if live else "every")
        assert list(stream)[-1].frame == 2

    def test_an_unknown_policy_is_an_error_at_the_call(self, reader: NumberReader):
        with pytest.raises(UsageError, match="unknown policy 'lates'") as raised:
            Stream(reader, [], policy="lates")
        assert raised.value.fix == "did you mean latest?"

    @pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"topk": 0}, {"max_age_ms": 0}])
    def test_counts_below_one_are_an_error_at_the_call(self, reader: NumberReader, wrong: dict[str, int]):
        with pytest.raises(UsageError, match="is 0"):
            Stream(reader, [], **wrong)

    def test_a_missing_source_is_an_error_at_the_call(self, reader: NumberReader):
        with pytest.raises(FrameSourceError, match="there is no source"):
            Stream(reader, "nowhere.mp4")


class TestPredictions:
    @EITHER
    def test_all_work_leaves_the_consumers_thread(self, reader: NumberReader, policy: str):
        list(Stream(reader, numbered(5), policy=policy))
        assert reader.threads == {"vitedge-worker"}

    @EITHER
    def test_carry_image_times_and_candidates(self, reader: NumberReader, policy: str):
        (prediction,) = Stream(reader, numbered(1), policy=policy, topk=3)
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
        (prediction,) = Stream(reader, [frame], policy=policy)
        assert prediction.age_ms >= 1000
        assert (prediction.frame, prediction.captured_at) == (7, 123.0)

    def test_a_capture_a_little_in_the_future_has_no_age(self, reader: NumberReader):
        frame = Frame(clips.numbered_frame(0), 0, captured_ns=time.monotonic_ns() + FUTURE_NS // 2)
        (prediction,) = Stream(reader, [frame])
        assert prediction.age_ms == 0.0

    @pytest.mark.parametrize("clock", [time.time_ns, lambda: time.monotonic_ns() + 2 * FUTURE_NS])
    def test_a_capture_by_another_clock_is_refused(self, reader: NumberReader, clock: Callable[[], int]):
        with (
            Stream(reader, [Frame(clips.numbered_frame(0), 7, captured_ns=clock())]) as stream,
            pytest.raises(FrameSourceError, match=r"frame 7 .* in the future") as raised,
        ):
            next(stream)
        assert "time.monotonic_ns()" in raised.value.fix

    def test_images_are_bgr_whatever_the_source_gives(self, reader: NumberReader):
        red = np.zeros((8, 16, 3), dtype=np.uint8)
        red[..., 0] = 255
        (prediction,) = Stream(reader, [Frame(red, 0, order="RGB", file="red.png")])
        assert prediction.image is not None
        assert prediction.image[0, 0].tolist() == [0, 0, 255]
        assert prediction.image.flags.c_contiguous
        assert prediction.file == "red.png"

    @EITHER
    def test_scores_below_the_threshold_abstain(self, reader: NumberReader, policy: str):
        for threshold, abstained in ((1.0, False), (1.5, True)):
            reader.threshold = threshold
            (prediction,) = Stream(reader, [clips.numbered_frame(3)], policy=policy)
            assert (prediction.label, prediction.abstained) == ("3", abstained)

    @EITHER
    def test_max_frames(self, reader: NumberReader, policy: str):
        assert len(list(Stream(reader, numbered(100), policy=policy, max_frames=1))) == 1
        if policy == "every":
            assert numbers(Stream(reader, numbered(100), policy=policy, max_frames=4)) == [0, 1, 2, 3]

    @EITHER
    def test_an_empty_source_gives_none(self, reader: NumberReader, policy: str):
        assert list(Stream(reader, [], policy=policy)) == []


@pytest.mark.parametrize("name", ["numbered-720p.mp4", "numbered-360p.mkv"])
def test_real_clips_lose_no_frame(name: str, reader: NumberReader, shared_data: Path):
    clip = shared_data / "video" / name
    expected = clips.read_clip(clip)
    count = 0
    for prediction in Stream(reader, clip, policy="every"):
        assert prediction.frame == count
        assert prediction.image is not None
        far = np.abs(prediction.image.astype(int) - expected[count]).max(axis=(1, 2))
        assert not far.any(), f"frame {count}, rows {np.flatnonzero(far)}, up to {far.max()}"
        count += 1
    assert count == len(expected) == 180


def test_a_real_clip_as_a_camera(reader: NumberReader, shared_data: Path):
    clip = shared_data / "video" / "numbered-360p.mkv"
    expected = clips.read_clip(clip)
    predictions = list(Stream(reader, clip, policy="latest", max_frames=20))
    for prediction in predictions:
        assert np.array_equal(prediction.image, expected[prediction.frame])
    seen = [prediction.frame for prediction in predictions]
    assert seen == sorted(set(seen))
    assert seen[-1] == sum(prediction.dropped + 1 for prediction in predictions) - 1


def test_a_real_bundle(tiny_bundle: Bundle, colour_frame):
    from vitedge.runtime.load import load

    colours = ["red", "green", "blue", "green"]
    with load(tiny_bundle) as classifier:
        frames = [colour_frame(colour, height=48, width=64) for colour in colours]
        assert [prediction.label for prediction in classifier.stream(frames)] == colours
        red = colour_frame("red")
        (prediction,) = classifier.stream([Frame(np.ascontiguousarray(red[..., ::-1]), 0, order="RGB")])
        direct: Prediction = classifier.classify(red)
    assert (prediction.label, prediction.topk) == ("red", direct.topk)


class TestMediaTime:
    @pytest.fixture
    def varying(self, tmp_path: Path) -> Path:
        path = clips.write_clip(tmp_path / "varying.mp4", 5, codec="mp4v")
        return clips.with_durations(path, [0.05, 0.05, 0.4, 0.05, 0.05])

    @EITHER
    def test_predictions_carry_the_presentation_time(self, reader: NumberReader, varying: Path, policy: str):
        with Stream(reader, varying, policy=policy) as stream:
            predictions = list(stream)
        times = dict(enumerate([0.0, 0.05, 0.1, 0.5, 0.55]))
        assert predictions
        for prediction in predictions:
            assert prediction.pts == pytest.approx(times[int(prediction.label)])
            assert prediction.to_json()["pts"] == prediction.pts

    def test_the_latest_frame_is_paced_by_it(self, reader: NumberReader, varying: Path):
        """At the reported mean rate the third frame would come 0.24 s after the first, and the fourth 0.36 s."""
        with Stream(reader, varying, policy="latest") as stream:
            captured = {int(each.label): each.captured_ns for each in stream}
        assert captured[3] - captured[0] >= 500_000_000

    def test_frames_without_times_are_paced_by_the_rate(self, reader: NumberReader):
        source = FakeSource([clips.numbered_frame(number) for number in range(3)])
        source.fps = 20.0
        with Stream(reader, source, policy="latest") as stream:
            first, *_, last = stream
        assert last.pts is None
        assert "pts" not in last.to_json()
        assert last.captured_ns - first.captured_ns >= 100_000_000
