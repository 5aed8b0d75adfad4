"""Cameras open beside each other; one that fails is tried again."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
from many_cameras import Counting, camera, last_frame
from streams import PATIENCE

from vitedge.errors import FrameSourceError, MissingExtraError, UsageError
from vitedge.prediction import Prediction
from vitedge.runtime.stream.cameras.streams import Streams
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.states import StateChange
from vitedge.testing import FakeSource

AT_ONCE = Reconnect(first_delay=0.01, longest_delay=0.02)
pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


def failing(*causes: str | None) -> Callable[[], FakeSource]:
    """Open a camera: fail by each of the causes first, then succeed."""
    remaining = list(causes)

    def opened() -> FakeSource:
        if remaining:
            cause = remaining.pop(0)
            raise FrameSourceError(f"no camera: {cause}", cause=cause)  # type: ignore[arg-type]
        return camera(frames=30)

    return opened


class TestOpening:
    def test_is_tried_again_while_the_others_go_on(self):
        changes: list[StateChange] = []
        cameras = {"door": failing("refused", "network"), "yard": camera(frames=100)}
        with Streams(Counting(), cameras, reconnect=AT_ONCE, on_state=changes.append) as streams:
            seen = list(streams)
        assert last_frame(seen, "door") == 29
        assert last_frame(seen, "yard") == 99
        mine = [(each.state, each.cause) for each in changes if each.source == "door"]
        assert mine[:3] == [("offline", "refused"), ("offline", "network"), ("online", None)]

    @pytest.mark.parametrize(
        ("causes", "reconnect"),
        [(("auth",), AT_ONCE), ((None,), AT_ONCE), (("refused",), False), (("refused",) * 3, Reconnect(0.0, 0.0, 2))],
    )
    def test_that_fails_for_good_ends_one_camera(self, causes: tuple[str | None, ...], reconnect: bool | Reconnect):
        cameras = {"door": failing(*causes), "yard": camera(frames=30)}
        seen: list[Prediction] = []
        with Streams(Counting(), cameras, reconnect=reconnect) as streams:
            with pytest.raises(FrameSourceError, match=f"door: no camera: {causes[0]}") as raised:
                seen.extend(streams)
            assert streams.state["door"] == "ended"
        assert raised.value.cause == causes[0]
        assert last_frame(seen, "yard") == 29
        assert "door" not in {each.source for each in seen}

    def test_that_takes_long_holds_up_no_other_camera(self):
        opens = threading.Event()

        def slow() -> FakeSource:
            opens.wait(PATIENCE)
            return camera(frames=20)

        with Streams(Counting(), {"door": slow, "yard": camera(frames=50)}) as streams:
            assert next(streams).source == "yard"
            assert streams.state["door"] == "connecting"
            opens.set()
            assert "door" in {each.source for each in streams}

    def test_of_a_wrong_address_is_a_mistake_of_the_caller(self):
        with Streams(Counting(), {"yard": camera(), "door": "rtps://camera/1"}) as streams:
            with pytest.raises(UsageError, match="door: unknown scheme") as raised:
                list(streams)
            assert "did you mean rtsp" in raised.value.fix

    def test_without_a_package_says_which(self):
        def missing() -> FakeSource:
            raise MissingExtraError("av", extra="camera", purpose="video")

        with Streams(Counting(), {"yard": camera(), "door": missing}) as streams, pytest.raises(MissingExtraError):
            list(streams)

    def test_again_numbers_the_frames_on(self):
        sources = itertools.count()

        def opened() -> FakeSource:
            lost = FrameSourceError("lost", cause="network") if next(sources) < 2 else None
            return camera(frames=10, error=lost)

        with Streams(Counting(), {"door": opened}, reconnect=AT_ONCE) as streams:
            predictions = list(streams)
        assert {each.epoch for each in predictions} == {0, 1, 2}
        assert [each.frame for each in predictions] == sorted({each.frame for each in predictions})
        assert streams.stats.cameras["door"].reconnects == 2
        assert any("door: " in notice and "opened again" in notice for notice in streams.notices)
