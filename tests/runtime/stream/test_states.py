"""Changes of state reach the application in order, in one thread, and whatever it does there."""

from __future__ import annotations

import logging
import threading

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.stream import states as states_module
from vitedge.runtime.stream.states import StateCalls, StateChange
from vitedge.runtime.stream.stream import Stream
from vitedge.testing import FakeCamera

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import clips
from streams import PATIENCE, NumberReader, no_threads, numbered, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


@pytest.fixture
def camera() -> FakeCamera:
    return FakeCamera(lambda _: clips.numbered_frame(0), fps=500.0)


def test_of_a_stream_from_its_first_frame_to_its_end(reader: NumberReader, camera: FakeCamera):
    seen: list[tuple[str, str]] = []
    with Stream(
        reader, camera.open, on_state=lambda change: seen.append((change.state, threading.current_thread().name))
    ) as stream:
        next(stream)
        camera.fail("eof")
        assert until(lambda: stream.state == "offline")
        camera.come_back()
        assert until(lambda: stream.state == "online")
    assert no_threads()
    assert [state for state, _ in seen] == ["online", "reconnecting", "offline", "online", "ended"]
    assert {thread for _, thread in seen} == {"vitedge-states"}


def test_of_a_file(reader: NumberReader):
    seen: list[StateChange] = []
    stream = Stream(reader, numbered(3), on_state=seen.append)
    assert stream.state == "connecting"
    assert len(list(stream)) == 3
    assert no_threads()
    assert [(change.state, change.cause) for change in seen] == [("online", None), ("ended", None)]


def test_an_end_by_an_error_tells_its_cause(reader: NumberReader, camera: FakeCamera):
    seen: list[StateChange] = []
    stream = Stream(reader, camera.open, on_state=seen.append, reconnect=False)
    camera.fail("codec")
    with pytest.raises(FrameSourceError):
        list(stream)
    assert no_threads()
    assert (seen[-1].state, seen[-1].cause, seen[-1].message) == ("ended", "codec", "the fake camera fails: codec")


@pytest.mark.parametrize("error", [ValueError("of the app"), SystemExit(3)])
def test_a_call_that_raises_is_logged_and_others_follow(
    reader: NumberReader, camera: FakeCamera, caplog: pytest.LogCaptureFixture, error: BaseException
):
    seen: list[str] = []

    def on_state(change: StateChange) -> None:
        seen.append(change.state)
        raise error

    with caplog.at_level(logging.ERROR, "vitedge"), Stream(reader, camera.open, on_state=on_state) as stream:
        next(stream)
    assert no_threads()
    assert seen == ["online", "ended"]
    assert "on_state failed at 'online'" in caplog.text
    assert f"{type(error).__name__}: {error}" in caplog.text


def test_a_call_that_blocks_holds_neither_frames_nor_the_end(reader: NumberReader, camera: FakeCamera):
    released = threading.Event()
    with Stream(reader, camera.open, on_state=lambda _: released.wait(PATIENCE)) as stream:
        for _ in range(5):
            next(stream)
        camera.fail("eof")
        assert until(lambda: stream.state == "offline")
        camera.come_back()
        assert next(each for each in stream if each.epoch).epoch == 1
    assert list(stream) == []
    released.set()


@pytest.mark.parametrize("act", [Stream.stop, Stream.close])
def test_a_call_may_end_the_stream(reader: NumberReader, camera: FakeCamera, act):
    ready = threading.Event()

    def on_state(change: StateChange) -> None:
        if change.state == "offline":
            ready.wait(PATIENCE)
            act(stream)

    stream = Stream(reader, camera.open, on_state=on_state)
    ready.set()
    next(stream)
    camera.fail("refused")
    list(stream)
    assert stream.state == "ended"
    assert no_threads()


def test_a_stream_that_does_not_open_leaves_no_thread(reader: NumberReader, camera: FakeCamera):
    camera.fail("auth")
    with pytest.raises(FrameSourceError):
        Stream(reader, camera.open, on_state=print)
    assert no_threads()


def test_changes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(states_module, "MOST_WAITING", 5)
    entered, released, seen = threading.Event(), threading.Event(), []

    def on_state(change: StateChange) -> None:
        entered.set()
        released.wait(PATIENCE)
        seen.append(change.attempt)

    calls = StateCalls(on_state)
    calls.put(StateChange("offline", attempt=0))
    assert entered.wait(PATIENCE)
    for attempt in range(1, 21):
        calls.put(StateChange("offline", attempt=attempt))
    calls.end()
    released.set()
    calls.thread.join(PATIENCE)
    assert seen == [0, 16, 17, 18, 19, 20]
