"""Frames of an RTSP camera: their order, their drops, and their age against the time at which the camera sent them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("av")

from camera_servers.encoded_clip import EncodedClip
from camera_servers.number_reader import UNREADABLE, BurntNumberReader, hidden_ms
from camera_servers.proxy import Proxy
from camera_servers.servers import RtspServer, rtsp_server, skip_without_rtsp
from camera_servers.watched import Watched

from vitedge.prediction import Prediction
from vitedge.runtime.stream.stream import Stream

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_thread_survives")]

FRAMES = 300
KINDS = pytest.mark.parametrize("kind", ["h264", "h264b", "hevc", "mjpeg"])
HIDDEN_MS = 400
"""Far more than a busy machine hides, far less than a wrong basis would."""


def steps(predictions: Sequence[Prediction], frames: int = FRAMES) -> list[int]:
    """Frames from each prediction to the next, by the numbers in their pictures."""
    return [(int(after.label) - int(before.label)) % frames for before, after in pairwise(predictions)]


def after_a_second(predictions: Sequence[Prediction]) -> list[Prediction]:
    begun = predictions[0].captured_ns
    return [each for each in predictions if each.captured_ns - begun > 1e9]


@KINDS
def test_a_slow_classifier_gets_frames_in_order_and_every_drop_is_counted(
    serve: Callable[..., RtspServer], kind: str
) -> None:
    camera = serve(kind)
    with Stream(BurntNumberReader(pause=0.1), camera.url("/cam"), max_frames=25) as stream:
        predictions = list(stream)
        stats = stream.stats
    assert steps(predictions) == [each.dropped + 1 for each in predictions[1:]]
    assert [each.frame for each in predictions] == sorted({each.frame for each in predictions})
    assert stats.captured == stats.predicted + sum(stats.dropped.values())
    assert stats.predicted == 25
    assert stats.dropped["newer"] >= sum(each.dropped for each in predictions[1:]) > 0
    assert stats.corrupt == stats.reconnects == 0


@KINDS
def test_an_age_is_counted_from_when_the_camera_sent_the_frame(serve: Callable[..., RtspServer], kind: str) -> None:
    camera = serve(kind)
    with Stream(BurntNumberReader(), camera.url("/cam"), max_frames=90) as stream:
        predictions = list(stream)
    hidden = sorted(hidden_ms(each, camera.sent) for each in after_a_second(predictions))
    assert hidden[0] > -HIDDEN_MS
    assert hidden[-1] < HIDDEN_MS
    assert abs(hidden[len(hidden) // 2]) < HIDDEN_MS / 4
    assert predictions[-1].age_basis in ("timestamps", "sender")


def test_every_frame_is_delivered_in_order_by_the_policy_every(camera: RtspServer) -> None:
    with Stream(BurntNumberReader(), camera.url("/cam"), policy="every", max_frames=60) as stream:
        predictions = list(stream)
    assert set(steps(predictions)) == {1}
    assert {each.dropped for each in predictions[1:]} == {0}


def test_who_asks_late_gets_the_present(camera: RtspServer) -> None:
    with Stream(BurntNumberReader(), camera.url("/cam"), max_frames=30) as stream:
        time.sleep(4)
        predictions = [(prediction, time.monotonic_ns()) for prediction in stream]
    true = [(now - camera.sent[int(prediction.label)]) / 1e6 for prediction, now in predictions]
    assert max(true) < 2000
    assert all(abs(hidden_ms(prediction, camera.sent)) < HIDDEN_MS for prediction, _ in predictions)


def test_what_waited_in_the_network_is_not_called_fresh(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied) as watched:
        watched.until_predictions(40)
        proxy.hold()
        watched.until_state("stalled")
        proxy.forward()
        watched.until_predictions(60)
    predictions = watched.predictions[30:]
    assert steps(watched.predictions) == [each.dropped + 1 for each in watched.predictions[1:]]
    assert max(hidden_ms(each, camera.sent) for each in predictions) < HIDDEN_MS
    assert watched.stream.stats.stalls == 1


def test_frames_that_are_too_old_are_dropped_and_counted(camera: RtspServer, proxy: Proxy, proxied: str) -> None:
    with Watched(proxied, policy="every", max_age_ms=1500) as watched:
        watched.until_predictions(40)
        proxy.hold()
        watched.until_state("stalled")
        proxy.forward()
        watched.until_predictions(60)
    assert watched.stream.stats.dropped["too_old"] > 0
    assert steps(watched.predictions) == [each.dropped + 1 for each in watched.predictions[1:]]


def test_a_size_that_changes_in_mid_stream_changes_the_frames(serve: Callable[..., RtspServer]) -> None:
    reader = BurntNumberReader()
    with Watched(serve("h264", "half").url("/cam"), reader) as watched:
        watched.until(lambda: len(set(reader.shapes)) == 2, "the other size")
        watched.until_predictions(30)
    assert set(reader.shapes) == {(192, 320), (96, 160)}
    assert {each.epoch for each in watched.predictions} == {0}
    assert watched.stream.stats.corrupt == 0
    assert UNREADABLE not in {each.label for each in watched.predictions}


def test_pictures_with_lost_packets_are_skipped_and_counted(serve: Callable[..., RtspServer]) -> None:
    with Stream(BurntNumberReader(), serve("h264", loss=0.02).url("/cam"), max_frames=90) as stream:
        predictions = list(stream)
        stats = stream.stats
    assert stats.corrupt > 0
    assert stats.dropped["corrupt"] == stats.corrupt
    assert stats.captured == stats.predicted + sum(stats.dropped.values())
    assert [each.frame for each in predictions] == sorted({each.frame for each in predictions})


def test_pictures_with_lost_packets_come_where_they_are_wanted(serve: Callable[..., RtspServer]) -> None:
    address = serve("h264", loss=0.05).url("/cam")
    with Stream(BurntNumberReader(), address, max_frames=45, skip_corrupt=False) as stream:
        assert len(list(stream)) == 45
        assert stream.stats.corrupt > 0
        assert stream.stats.dropped["corrupt"] == 0


def test_a_filmed_street_is_read_like_drawn_pictures(filmed: EncodedClip, tmp_path: Path) -> None:
    skip_without_rtsp()
    with (
        rtsp_server(tmp_path, {"/cam": [filmed]}) as camera,
        Stream(BurntNumberReader(), camera.url("/cam"), max_frames=60) as stream,
    ):
        predictions = list(stream)
    assert steps(predictions, filmed.frames) == [each.dropped + 1 for each in predictions[1:]]
