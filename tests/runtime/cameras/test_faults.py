"""Cameras that die, stop, hang, refuse and come back, and what the stream says of each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest

pytest.importorskip("av")

from camera_servers.number_reader import BurntNumberReader, hidden_ms
from camera_servers.proxy import Proxy
from camera_servers.servers import RtspServer
from camera_servers.watched import Watched

from vitedge.errors import FrameSourceError
from vitedge.prediction import Prediction
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.stream.reconnect import Reconnect
from vitedge.runtime.stream.stream import Stream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("no_thread_survives")]

IMPATIENT = NetworkOptions(open_timeout=4.0, read_timeout=2.0, stall_timeout=0.7)
HIDDEN_MS = 400


def check_recovered(watched: Watched, camera: RtspServer) -> None:
    """One recovery: numbers go on, the states follow each other, every frame is counted, no age is wrong."""
    predictions, stats = watched.predictions, watched.stream.stats
    assert [each.frame for each in predictions] == sorted({each.frame for each in predictions})
    assert [each.epoch for each in predictions] == sorted(each.epoch for each in predictions)
    assert stats.captured == stats.predicted + sum(stats.dropped.values())
    assert stats.predicted == len(predictions)
    assert stats.reconnects == predictions[-1].epoch
    states = [each.state for each in watched.changes]
    assert states[0] == "online"
    assert states[-1] == "ended"
    assert all(before != after for before, after in pairwise(states) if before != "offline")
    assert watched.error is None
    assert max(hidden_ms(each, camera.sent) for each in after_reconnecting(predictions)) < HIDDEN_MS


def after_reconnecting(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions that are a second into the newest connection."""
    newest = [each for each in predictions if each.epoch == predictions[-1].epoch]
    return [each for each in newest if each.captured_ns - newest[0].captured_ns > 1e9]


def cause_of_loss(watched: Watched) -> str | None:
    """The cause that the first change names after the stream was online."""
    online = watched.states.index("online")
    return next((each.cause for each in watched.changes[online + 1 :] if each.cause), None)


def test_a_camera_that_is_switched_off_and_on_again(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT) as watched:
        watched.until_predictions(10)
        camera.kill()
        watched.until_state("offline")
        camera.start()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)
    assert cause_of_loss(watched) in ("eof", "network", "refused")
    assert "offline: refused" in watched.states


def test_a_camera_that_hangs_and_goes_on(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT) as watched:
        watched.until_predictions(10)
        camera.stop()
        watched.until_state("reconnecting")
        camera.resume()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)
    assert "stalled: timeout" in watched.states
    assert watched.stream.stats.stalls >= 1


def test_a_camera_that_hangs_for_a_moment_is_not_reconnected(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=NetworkOptions(stall_timeout=0.7, read_timeout=30.0)) as watched:
        watched.until_predictions(10)
        camera.stop()
        watched.until_state("stalled")
        camera.resume()
        watched.until_predictions(60)
    check_recovered(watched, camera)
    assert {each.epoch for each in watched.predictions} == {0}
    assert [each.state for each in watched.changes][:3] == ["online", "stalled", "online"]


def test_a_connection_whose_other_end_is_gone_without_a_word(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, options=IMPATIENT) as watched:
        watched.until_predictions(10)
        proxy.abandon()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)
    assert "stalled: timeout" in watched.states


def test_a_connection_that_is_reset(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, options=IMPATIENT) as watched:
        watched.until_predictions(10)
        proxy.reset()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)
    assert cause_of_loss(watched) in ("eof", "network")


def test_a_camera_that_refuses_for_a_while(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, options=IMPATIENT) as watched:
        watched.until_predictions(10)
        proxy.refuse()
        watched.until_state("offline")
        proxy.listen()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)
    assert "offline: refused" in watched.states


def test_a_camera_that_closes_connections_while_it_starts(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, options=IMPATIENT) as watched:
        watched.until_predictions(10)
        camera.kill()
        watched.until_state("offline")
        camera.start()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)
    assert "offline: network" in watched.states


def test_a_camera_that_is_slow_to_answer(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, options=IMPATIENT) as watched:
        watched.until_predictions(10)
        proxy.delay(2.0)
        proxy.reset()
        watched.until_predictions(60, epoch=1)
    check_recovered(watched, camera)


def test_a_camera_that_dies_three_times(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT) as watched:
        for epoch in range(3):
            watched.until_predictions(10, epoch=epoch)
            camera.kill()
            camera.start()
        watched.until_predictions(60, epoch=3)
    check_recovered(watched, camera)
    assert {each.epoch for each in watched.predictions} == {0, 1, 2, 3}


def test_a_stream_waits_for_a_camera_that_is_not_there_yet(camera: RtspServer) -> None:
    camera.kill()
    with Watched(camera.url("/cam"), options=IMPATIENT, reconnect=True) as watched:
        watched.until_state("offline")
        camera.start()
        watched.until_predictions(10)
    assert watched.predictions[0].epoch == 0
    assert watched.stream.stats.reconnects == 0
    assert watched.states[:2] == ["offline: refused", "online"]


def test_a_stream_that_may_not_reconnect_ends_with_the_cause(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT, reconnect=False) as watched:
        watched.until_predictions(10)
        camera.kill()
        watched.until_end()
    assert isinstance(watched.error, FrameSourceError)
    assert watched.error.cause in ("eof", "network")
    assert watched.changes[-1].state == "ended"
    assert watched.changes[-1].cause == watched.error.cause


def test_a_stream_gives_up_after_its_attempts(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT, reconnect=Reconnect(attempts=3)) as watched:
        watched.until_predictions(10)
        camera.kill()
        watched.until_end()
    assert isinstance(watched.error, FrameSourceError)
    assert watched.error.cause == "refused"
    assert [each.attempt for each in watched.changes if each.state == "offline"][-1:] <= [3]


def test_a_stream_stops_while_its_camera_hangs(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT) as watched:
        watched.until_predictions(10)
        camera.stop()
        watched.until_state("stalled")
        watched.stream.stop()
        watched.until_end()
        assert watched.error is None
        assert watched.changes[-1].state == "ended"
        camera.resume()


def test_a_stream_stops_while_it_waits_to_connect_again(camera: RtspServer) -> None:
    with Watched(camera.url("/cam"), options=IMPATIENT) as watched:
        watched.until_predictions(10)
        camera.kill()
        watched.until_state("offline")
        watched.stream.stop()
        watched.until_end()
    assert watched.error is None


def test_opening_a_camera_that_never_answers_times_out(proxy: Proxy, proxied: str) -> None:
    proxy.ignore()
    with pytest.raises(FrameSourceError) as raised:
        Stream(BurntNumberReader(), proxied, options=NetworkOptions(open_timeout=1.0))
    assert raised.value.cause == "timeout"


def test_nothing_is_open_after_many_connections(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, options=IMPATIENT) as watched:
        watched.until_predictions(5)
        threads = threading.active_count()
        for epoch in range(1, 5):
            proxy.reset()
            watched.until_predictions(5, epoch=epoch)
        watched.until(lambda: threading.active_count() <= threads, "an end of the threads of old connections")
    assert watched.stream.stats.left_behind == 0
