"""The test doubles: they do as they are told, and only that."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import EngineError, FrameSourceError
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.base import Engine
from vitedge.runtime.sources.base import Frame, FrameSource
from vitedge.runtime.sources.open import open_source
from vitedge.testing import FakeCamera, FakeEngine, FakeSource

DARK = np.zeros((2, 2, 3), dtype=np.uint8)
BRIGHT = np.full((2, 2, 3), 255, dtype=np.uint8)
PATIENCE = 10.0


class TestFakeEngine:
    def test_it_answers_by_the_content_of_the_frame(self) -> None:
        engine: Engine = FakeEngine({DARK.tobytes(): [1, 0], BRIGHT.tobytes(): [0, 1]}, input_size=(2, 2))
        logits = []
        for frame in (BRIGHT, DARK):
            engine.frame[...] = frame
            logits.append(engine.run())
        assert [each.tolist() for each in logits] == [[0, 1], [1, 0]]
        assert all(each.dtype == np.float32 for each in logits)

    def test_it_answers_with_a_function(self) -> None:
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(2, 2))
        engine.frame[...] = BRIGHT
        assert engine.run().tolist() == [255, 255, 255]

    def test_the_caller_owns_the_logits(self) -> None:
        logits = np.array([1, 2], dtype=np.float32)
        engine = FakeEngine(lambda _: logits, input_size=(2, 2))
        engine.run()[0] = 9
        assert logits.tolist() == [1, 2]

    def test_a_frame_without_logits_is_an_error(self) -> None:
        engine = FakeEngine({DARK.tobytes(): [1, 0]}, input_size=(2, 2))
        engine.frame[...] = BRIGHT
        with pytest.raises(EngineError, match="no logits"):
            engine.run()

    def test_it_keeps_copies_of_the_frames_that_it_ran(self) -> None:
        engine = FakeEngine(lambda _: [0.0], input_size=(2, 2))
        for frame in (DARK, BRIGHT):
            engine.frame[...] = frame
            engine.run()
        assert [call.max() for call in engine.calls] == [0, 255]

    def test_it_raises_what_it_is_told_to_until_told_otherwise(self) -> None:
        engine = FakeEngine(lambda _: [0.0], input_size=(2, 2))
        engine.error = EngineError("told to")
        for _ in range(2):
            with pytest.raises(EngineError, match="told to"):
                engine.run()
        engine.error = None
        assert engine.run().tolist() == [0.0]

    def test_it_refuses_when_closed(self) -> None:
        engine = FakeEngine(lambda _: [0.0], input_size=(2, 2))
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.run()


@pytest.mark.timeout(60)
class TestFakeSource:
    def test_it_delivers_a_list_and_ends(self) -> None:
        source = FakeSource([DARK, BRIGHT])
        assert open_source(source) is source
        frames = list(source)
        assert [(frame.index, int(frame.image.max()), frame.order) for frame in frames] == [
            (0, 0, "BGR"),
            (1, 255, "BGR"),
        ]
        assert (source.length, source.live, source.fps, source.delivered, source.notices) == (2, False, None, 2, ())

    def test_it_delivers_what_a_function_makes_until_it_gives_none(self) -> None:
        source = FakeSource(lambda index: BRIGHT if index < 3 else None)
        assert [frame.index for frame in source] == [0, 1, 2]
        assert source.length is None

    def test_frames_come_no_faster_than_its_rate(self) -> None:
        frames = list(FakeSource([DARK] * 6, fps=100.0, live=True))
        assert frames[-1].captured_ns - frames[0].captured_ns >= 49_000_000

    def test_it_raises_its_error_after_the_last_frame(self) -> None:
        source = FakeSource([DARK, DARK], error=OSError("unplugged"))
        frames = iter(source)
        assert [next(frames).index, next(frames).index] == [0, 1]
        with pytest.raises(OSError, match="unplugged"):
            next(frames)

    def test_frames_may_be_old_or_corrupt(self) -> None:
        (frame,) = FakeSource([Frame(DARK, 7, captured_ns=1, corrupt=True)])
        assert (frame.index, frame.captured_ns, frame.corrupt) == (7, 1, True)

    def test_closing_ends_a_wait_for_the_next_frame(self) -> None:
        source = FakeSource(lambda _: DARK, error=OSError("not raised when closed"), fps=0.001)
        delivered: list[Frame] = []
        reader = threading.Thread(target=lambda: delivered.extend(source))
        reader.start()
        deadline = time.monotonic() + PATIENCE
        while source.delivered < 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        source.close()
        source.close()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert (len(delivered), source.closed) == (1, True)

    def test_an_application_can_be_tested_with_both_doubles(self) -> None:
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(2, 2))
        red = np.array(DARK)
        red[..., 2] = 200
        source: FrameSource = FakeSource([red, red], error=OSError("unplugged"), live=True, fps=1000.0)
        preprocessing = Preprocessing(input_size=(2, 2), resize_size=(2, 2))
        with Classifier(engine, preprocessing, ["red", "green", "blue"]) as classifier:
            stream = classifier.stream(source)
            assert stream.policy == "latest"
            assert next(stream).label == "red"
            with pytest.raises(OSError, match="unplugged"):
                list(stream)


@pytest.mark.timeout(60)
class TestFakeCamera:
    def test_each_connection_delivers_from_the_start(self) -> None:
        camera = FakeCamera(lambda index: BRIGHT if index < 3 else None, fps=1000.0)
        assert [[frame.index for frame in camera.open()] for _ in range(2)] == [[0, 1, 2]] * 2
        assert (camera.attempts, len(camera.sources)) == (2, 2)

    def test_a_failure_breaks_connections_and_refuses_others_until_it_comes_back(self) -> None:
        camera = FakeCamera(lambda _: DARK)
        frames = iter(camera.open())
        next(frames)
        camera.fail("eof")
        for act in (lambda: next(frames), camera.open):
            with pytest.raises(FrameSourceError, match="fails: eof") as raised:
                act()
            assert raised.value.cause == "eof"
        camera.come_back()
        assert next(iter(camera.open())).index == 0

    @pytest.mark.parametrize("still", [FakeCamera.go_silent, FakeCamera.hang])
    def test_a_silent_or_hanging_camera_goes_on_where_it_was(self, still) -> None:
        camera = FakeCamera(lambda _: DARK)
        frames = iter(camera.open())
        next(frames)
        still(camera)
        seen: list[Frame] = []
        reader = threading.Thread(target=lambda: seen.append(next(frames)))
        reader.start()
        reader.join(0.05)
        assert reader.is_alive()
        camera.come_back()
        reader.join(PATIENCE)
        assert [frame.index for frame in seen] == [1]

    @pytest.mark.parametrize(("still", "ends"), [(FakeCamera.go_silent, True), (FakeCamera.hang, False)])
    def test_closing_ends_a_silent_connection_and_not_a_hanging_one(self, still, ends: bool) -> None:
        camera = FakeCamera(lambda _: DARK)
        source = camera.open()
        still(camera)
        reader = threading.Thread(target=lambda: list(source), daemon=True)
        reader.start()
        source.close()
        reader.join(PATIENCE if ends else 0.05)
        assert reader.is_alive() is not ends
        camera.come_back()
        reader.join(PATIENCE)
        assert not reader.is_alive()

    def test_a_hanging_camera_does_not_open(self) -> None:
        camera = FakeCamera(lambda _: DARK)
        camera.hang()
        opener = threading.Thread(target=camera.open, daemon=True)
        opener.start()
        opener.join(0.05)
        assert opener.is_alive()
        camera.come_back()
        opener.join(PATIENCE)
        assert not opener.is_alive()
