"""Arguments of streams: which are refused, and cameras from a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from many_cameras import Counting, camera, picture

from vitedge.errors import FrameSourceError, UsageError
from vitedge.runtime.stream.cameras.streams import MOST_CAMERAS, Streams
from vitedge.runtime.stream.states import StateChange
from vitedge.testing import FakeSource

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_thread_survives")]


def two() -> dict[str, FakeSource]:
    return {"door": camera(), "yard": camera()}


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"max_frames": 0}, "max_frames is 0"),
            ({"topk": 0}, "topk is 0"),
            ({"max_age_ms": 0}, "max_age_ms is 0"),
            ({"max_fps": 0}, "max_fps of door is 0"),
            ({"max_fps": -1.0}, "max_fps of door is -1"),
            ({"max_fps": float("nan")}, "max_fps of door is nan"),
            ({"max_fps": float("inf")}, "max_fps of door is inf"),
            ({"max_fps": {"yard": 0.0}}, "max_fps of yard is 0"),
            ({"max_fps": {"dor": 5.0}}, "max_fps names 'dor'"),
            ({"options": {"gate": None}}, "options names 'gate'"),
            ({"reconnect": 5}, "reconnect is 5"),
        ],
    )
    def test_that_are_wrong_are_refused(self, arguments: dict[str, object], message: str):
        with pytest.raises(UsageError, match=message):
            Streams(Counting(), two(), **arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("cameras", "message"),
        [
            ({}, "there are 0 cameras"),
            ({"": 0}, "named ''"),
            ({" door": 0}, "named ' door'"),
            ({"a\nb": 0}, r"named 'a\\nb'"),
            ({1: 0}, "named 1"),
            ({"x" * 101: 0}, "at most 100 characters"),
            ({"\N{CAMERA}" * 51: 0}, "and 200 bytes"),
            ({"../door": 0}, "named '../door'"),
            ({"yard/gate": 0}, "named 'yard/gate'"),
            ({"yard\\gate": 0}, "named 'yard"),
            ({"/yard": 0}, "named '/yard'"),
            ({".": 0}, r"named '\.'"),
            ({"..": 0}, r"named '\.\.'"),
            ({".door": 0}, r"named '\.door'"),
            ("rtsp://camera/1", "the cameras are str"),
            ([0, 1], "the cameras are list"),
            ({str(number): number for number in range(MOST_CAMERAS + 1)}, "there are 257 cameras"),
        ],
    )
    def test_that_name_no_cameras_are_refused(self, cameras: object, message: str):
        with pytest.raises(UsageError, match=message) as raised:
            Streams(Counting(), cameras)  # type: ignore[arg-type]
        assert raised.value.expected

    def test_a_list_of_streams_names_its_cameras(self, tmp_path: Path):
        path = tmp_path / "site.streams"
        path.write_text("door = test://?fps=100&size=64x48\nyard = test://?fps=100&size=64x48\n", encoding="utf-8")
        with Streams(Counting(), path, max_frames=20) as streams:
            assert {each.source for each in streams} == {"door", "yard"}
        with pytest.raises(FrameSourceError, match="cannot be read"):
            Streams(Counting(), str(tmp_path / "none.streams"))

    @pytest.mark.parametrize("source", [camera(), iter([picture(0)])])
    def test_one_source_under_two_names_is_refused(self, source: FakeSource | Iterator[np.ndarray]):
        with pytest.raises(UsageError, match="door and yard are one source"):
            Streams(Counting(), {"door": source, "yard": source})

    def test_options_reach_each_camera(self):
        from vitedge.runtime.sources.options import SourceOptions

        options = {"door": SourceOptions(stall_timeout=0.05)}
        changes: list[StateChange] = []
        cameras = {name: camera(2.0) for name in ("door", "yard")}
        with Streams(Counting(), cameras, options=options, on_state=changes.append) as streams:
            for _ in itertools.islice(streams, 4):
                pass
        stalled = {each.source for each in changes if each.state == "stalled"}
        assert stalled == {"door"}
