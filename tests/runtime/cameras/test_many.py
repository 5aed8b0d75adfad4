"""Several real cameras, of which one dies, on one classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

pytest.importorskip("av")

from camera_servers.number_reader import BurntNumberReader, hidden_ms
from camera_servers.servers import RtspServer, WebServer
from camera_servers.watched import Watched

from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.stream.cameras.streams import Streams

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_thread_survives")]

FRAMES = 300
HIDDEN_MS = 400
IMPATIENT = NetworkOptions(open_timeout=4.0, read_timeout=2.0, stall_timeout=0.7)


def test_a_camera_that_dies_leaves_the_others_alone(
    serve: Callable[..., RtspServer], web: Callable[..., WebServer]
) -> None:
    door, yard, gate = serve("h264"), serve("hevc"), web()
    cameras = {"door": door.url("/cam"), "yard": yard.url("/cam"), "gate": gate.url("/mjpeg")}

    def seen(name: str, after: int = 0) -> int:
        return sum(each.source == name for each in watched.predictions[after:])

    def changed(state: str) -> bool:
        return any((each.source, each.state) == ("door", state) for each in watched.changes)

    with Watched(cameras, options=IMPATIENT) as watched:
        watched.until(lambda: all(seen(name) > 10 for name in cameras), "predictions of all cameras")
        door.kill()
        watched.until(lambda: changed("offline"), "the end of the door's camera")
        dead = len(watched.predictions)
        watched.until(lambda: seen("yard", dead) > 30 and seen("gate", dead) > 30, "predictions of the others")
        door.start()
        watched.until(lambda: seen("door", dead) > 30, "predictions of the door")
    assert watched.error is None
    assert {each.source for each in watched.changes if each.state in ("offline", "reconnecting")} == {"door"}
    stats = watched.stream.stats.cameras
    for name, server in (("door", door), ("yard", yard), ("gate", gate)):
        own = [each for each in watched.predictions if each.source == name]
        assert stats[name].predicted == len(own)
        assert stats[name].captured == len(own) + sum(stats[name].dropped.values())
        assert {each.epoch for each in own} == ({0, 1} if name == "door" else {0})
        for before, after in pairwise(own):
            if before.epoch == after.epoch:
                assert (int(after.label) - int(before.label)) % FRAMES == after.dropped + 1
        assert max(hidden_ms(each, server.sent) for each in own[-20:]) < HIDDEN_MS


def test_no_camera_starves_under_overload(serve: Callable[..., RtspServer]) -> None:
    server = serve("h264")
    cameras = {f"camera {number}": server.url("/cam") for number in range(4)}
    with Streams(BurntNumberReader(pause=0.05), cameras, max_frames=120) as streams:
        predictions = list(streams)
        assert sum(each.dropped["newer"] for each in streams.stats.cameras.values()) > 0
    shares = Counter(each.source for each in predictions[40:])
    assert len(shares) == 4
    assert min(shares.values()) >= 10
