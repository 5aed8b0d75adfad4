"""Several cameras share one engine, and none depends on another: predictions, rates, deaths and ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from many_cameras import Counting, camera, check_counts, last_frame, picture
from streams import PATIENCE, until

from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError, FrameSourceError
from vitedge.prediction import Prediction
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.iterables import FrameIterable
from vitedge.runtime.stream.cameras.streams import Streams
from vitedge.runtime.stream.states import StateChange
from vitedge.testing import FakeSource

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


class TestPredictions:
    def test_name_their_camera_and_keep_its_order(self):
        with Streams(Counting(), {"door": camera(), "yard": camera(90)}, max_frames=200) as streams:
            predictions = list(streams)
        assert len(predictions) == 200
        for name in ("door", "yard"):
            mine = [each for each in predictions if each.source == name]
            frames = [each.frame for each in mine]
            assert len(frames) > 20
            assert frames == sorted(set(frames))
            assert [int(each.label) for each in mine] == [frame % 256 for frame in frames]
            assert mine[-1].to_json()["source"] == name
            assert streams.stats.cameras[name].predicted == len(mine)
            assert frames[-1] + 1 == len(mine) + sum(each.dropped for each in mine)
        check_counts(streams)
        assert streams.state == {"door": "ended", "yard": "ended"}

    def test_are_of_the_newest_frames(self):
        source = camera(None, frames=50)
        with Streams(Counting(), {"door": source}) as streams:
            assert until(lambda: source.delivered == 50)
            predictions = list(streams)
        assert [each.frame for each in predictions] == [49]
        assert predictions[0].dropped == 49
        assert streams.stats.cameras["door"].dropped["newer"] == 49
        check_counts(streams)

    def test_are_of_frames_that_are_new_when_they_are_asked_for(self):
        arrived = threading.Semaphore()

        def frames(index: int) -> np.ndarray | None:
            arrived.acquire()
            return picture(index) if index < 10 else None

        source = FakeSource(frames, live=True)
        with Streams(Counting(), {"door": source}) as streams:
            assert next(streams).frame == 0
            arrived.release()
            assert until(lambda: source.delivered == 2)
            time.sleep(0.05)  # a worker that did not wait would take the frame
            arrived.release(8)
            assert until(lambda: source.delivered == 10)
            assert next(streams).frame in (8, 9)  # the last one may still be in the reader's hands
            arrived.release()

    def test_of_files_lose_no_frame(self):
        clip = [picture(number) for number in range(40)]
        with Streams(Counting(0.001), {"a": clip, "b": iter(clip), "door": camera(frames=30)}) as streams:
            counted = Counter(each.source for each in streams)
        assert counted["a"] == counted["b"] == 40
        check_counts(streams)
        assert sum(streams.stats.cameras["a"].dropped.values()) == 0

    def test_older_than_allowed_never_come(self):
        second_ago = time.monotonic_ns() - 1_000_000_000
        old = FrameIterable([Frame(picture(0), 0, captured_ns=second_ago)] * 5, live=True)
        with Streams(Counting(), {"old": old, "door": camera(frames=20)}, max_age_ms=500) as streams:
            assert {each.source for each in streams} == {"door"}
        assert streams.stats.cameras["old"].dropped["too_old"] == 5
        check_counts(streams)

    def test_of_frames_that_grew_old_while_they_waited_are_not_even_made(self):
        classifier, source = Counting(), camera(None, frames=1)
        with Streams(classifier, {"door": source}, max_age_ms=20) as streams:
            assert until(lambda: streams.stats.total.captured)
            time.sleep(0.05)
            assert list(streams) == []
        assert classifier.classified == 0
        assert streams.stats.total.dropped["too_old"] == 1

    def test_that_are_damaged_are_dropped_unless_they_are_asked_for(self):
        def damaged() -> FrameIterable:
            return FrameIterable([Frame(picture(1), 0, corrupt=True)], live=True)

        with Streams(Counting(), {"door": damaged()}) as streams:
            assert list(streams) == []
        assert streams.stats.total.dropped["corrupt"] == streams.stats.total.corrupt == 1
        with Streams(Counting(), {"door": damaged()}, skip_corrupt=False) as streams:
            assert len(list(streams)) == 1

    def test_come_without_blocking_an_event_loop(self):
        async def counted() -> Counter[str | None]:
            async with Streams(Counting(), {"door": camera(), "yard": camera()}, max_frames=40) as streams:
                return Counter([each.source async for each in streams])

        found = asyncio.run(counted())
        assert set(found) == {"door", "yard"}
        assert sum(found.values()) == 40

    def test_of_a_real_bundle(self, tiny_bundle: Bundle, colour_frame: Callable[..., np.ndarray]):
        from vitedge.runtime.load import load

        colours = {"r": "red", "g": "green", "b": "blue"}
        with load(tiny_bundle) as classifier:
            sources = {name: [colour_frame(colour)] * 5 for name, colour in colours.items()}
            with classifier.streams(sources) as streams:
                predictions = list(streams)
        assert len(predictions) == 15
        assert all(each.label == colours[str(each.source)] for each in predictions)


class TestRates:
    def test_of_one_camera_or_of_all(self):
        for max_fps, limited in (({"door": 20.0}, {"door"}), (20.0, {"door", "yard"})):
            with Streams(Counting(), {"door": camera(100.0), "yard": camera(100.0)}, max_fps=max_fps) as streams:
                begun = time.monotonic()
                while time.monotonic() - begun < 0.5:
                    next(streams)
                most = (time.monotonic() - begun) * 20 + 2
            for name, stats in streams.stats.cameras.items():
                assert stats.predicted <= most or name not in limited
                assert (stats.dropped["max_fps"] > 0) == (name in limited)
            check_counts(streams)

    def test_files_wait_instead_of_losing_frames(self):
        begun = time.monotonic()
        with Streams(Counting(), {"clip": [picture(number) for number in range(6)]}, max_fps=20.0) as streams:
            assert len(list(streams)) == 6
        assert time.monotonic() - begun >= 5 / 20 - 0.05


class TestDeath:
    def test_of_one_camera_leaves_the_others_alone(self):
        lost = FrameSourceError("unplugged", cause="unplugged", fix="plug it in")
        cameras = {"door": camera(frames=5, error=lost), "yard": camera(frames=60)}
        seen: list[Prediction] = []
        with (
            Streams(Counting(), cameras, reconnect=False) as streams,
            pytest.raises(FrameSourceError, match="door: unplugged") as raised,
        ):
            seen.extend(streams)
        assert raised.value.cause == "unplugged"
        assert raised.value.fix == "plug it in"
        assert raised.value.__cause__ is lost
        assert last_frame(seen, "yard") == 59
        assert streams.errors == {"door": lost}
        check_counts(streams)

    def test_of_all_names_all(self, caplog: pytest.LogCaptureFixture):
        cameras = {
            "door": camera(frames=3, error=FrameSourceError("no answer", cause="timeout")),
            "yard": camera(frames=3, error=OSError("rtsp://me:secret@camera/1")),
            "gate": camera(frames=3),
        }
        with Streams(Counting(), cameras, reconnect=False) as streams, pytest.raises(FrameSourceError) as raised:
            list(streams)
        assert "door: no answer; yard: OSError: " in raised.value.problem
        assert "secret" not in str(raised.value) + caplog.text
        assert raised.value.cause is None
        assert set(streams.errors) == {"door", "yard"}
        assert next(streams, None) is None

    def test_without_an_error_is_the_end(self):
        with Streams(Counting(), {"door": camera(frames=3), "yard": camera(frames=3)}) as streams:
            assert {each.source for each in streams} == {"door", "yard"}
        assert streams.errors == {}

    def test_by_a_hang_leaves_the_others_alone_and_is_left_behind_at_the_end(self):
        hangs = threading.Event()

        def hanging(index: int) -> np.ndarray | None:
            if index == 2:
                hangs.wait(PATIENCE)
                return None
            return picture(index)

        cameras = {"door": FakeSource(hanging, live=True), "yard": camera(frames=100)}
        streams = Streams(Counting(), cameras, max_frames=50)
        assert len(list(streams)) == 50
        assert streams.stats.total.left_behind == 1
        hangs.set()

    def test_by_a_frame_that_the_model_refuses(self, caplog: pytest.LogCaptureFixture):
        classifier = Counting()
        classifier.errors = dict.fromkeys(range(7, 100), FrameSourceError("a grey frame"))
        cameras = {"door": camera(50.0, frames=200), "yard": [picture(100)] * 40}
        with Streams(classifier, cameras, max_fps={"yard": 40.0}) as streams:
            assert until(lambda: next(streams) and streams.errors)
            assert streams.state["door"] == "ended"
            assert streams.stats.cameras["door"].under_way == 0
            with pytest.raises(FrameSourceError, match="door: a grey frame"):
                list(streams)
        assert streams.stats.cameras["yard"].predicted == 40
        assert streams.stats.cameras["door"].predicted <= 7
        assert cameras["door"].delivered < 200  # type: ignore[union-attr]
        assert "door has ended: a grey frame" in caplog.messages
        check_counts(streams)


class TestEnding:
    def test_by_the_engine_is_the_end_of_all(self):
        classifier = Counting()
        classifier.errors[5] = EngineError("it failed")
        sources = [FakeSource([picture(number)] * 50) for number in (3, 5)]
        streams = Streams(classifier, {"door": sources[0], "yard": lambda: sources[1]})  # type: ignore[dict-item]
        with streams, pytest.raises(EngineError, match="it failed"):
            list(streams)
        assert until(lambda: sources[1].closed)
        assert not sources[0].closed  # it was passed in open
        assert next(streams, None) is None
        check_counts(streams)

    @pytest.mark.parametrize("fps", [200.0, 0.01])
    def test_by_another_thread_ends_the_wait(self, fps: float):
        streams = Streams(Counting(), {"door": lambda: camera(fps), "yard": lambda: camera(fps)})
        stopper = threading.Timer(0.1, streams.stop)
        stopper.start()
        list(streams)
        stopper.join()
        check_counts(streams)

    def test_before_the_first_prediction(self):
        sources = [camera(), camera()]
        Streams(Counting(), {"door": lambda: sources[0], "yard": lambda: sources[1]}).close()
        assert until(lambda: all(source.closed or not source.delivered for source in sources))

    def test_that_is_forgotten_warns_and_closes(self):
        def forget() -> None:
            next(Streams(Counting(), {"door": camera(), "yard": camera()}))

        with pytest.warns(ResourceWarning, match="the stream was not closed"):
            forget()

    def test_frees_a_file_that_waits_for_its_turn(self):
        with Streams(Counting(), {"clip": [picture(number) for number in range(50)]}) as streams:
            next(streams)
            assert until(
                lambda: streams.stats.total.captured == 3
            )  # one is out, one waits, one is in the reader's hands
        check_counts(streams)
        assert streams.stats.total.dropped["at_end"] == 2

    def test_ends_the_reports_of_all_cameras(self):
        changes: list[StateChange] = []
        with Streams(Counting(), {"door": camera(frames=3), "yard": camera()}, on_state=changes.append) as streams:
            assert until(lambda: next(streams) and streams.state["door"] == "ended")
            time.sleep(0.05)  # the report of its end is on its way
        assert until(lambda: {each.source for each in changes if each.state == "ended"} == {"door", "yard"})
