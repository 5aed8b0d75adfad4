"""MJPEG and MPEG-TS by HTTP, MPEG-TS by UDP, and a finite file by HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import pairwise

import pytest

pytest.importorskip("av")

from camera_servers.encoded_clip import EncodedClip
from camera_servers.number_reader import UNREADABLE, BurntNumberReader, hidden_ms
from camera_servers.servers import WebServer
from camera_servers.watched import Watched

from vitedge.prediction import Prediction
from vitedge.runtime.stream.stream import Stream

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_thread_survives")]

FRAMES = 300
HIDDEN_MS = 400
LIVE = pytest.mark.parametrize("path", ["/mjpeg", "/live.ts"])


def check_order(predictions: list[Prediction]) -> None:
    steps = [(int(after.label) - int(before.label)) % FRAMES for before, after in pairwise(predictions)]
    assert steps == [each.dropped + 1 for each in predictions[1:]]


@LIVE
def test_frames_come_in_order_and_every_drop_is_counted(web: Callable[..., WebServer], path: str) -> None:
    server = web()
    with Stream(BurntNumberReader(pause=0.1), server.url(path), max_frames=25) as stream:
        predictions = list(stream)
        stats = stream.stats
    check_order(predictions)
    assert stats.dropped["newer"] > 0
    assert stats.captured == stats.predicted + sum(stats.dropped.values())


@LIVE
def test_an_age_is_counted_from_when_the_server_sent_the_frame(web: Callable[..., WebServer], path: str) -> None:
    server = web()
    with Stream(BurntNumberReader(), server.url(path), max_frames=90) as stream:
        predictions = list(stream)
    hidden = sorted(hidden_ms(each, server.sent) for each in predictions[35:])
    assert hidden[0] > -HIDDEN_MS
    assert hidden[-1] < HIDDEN_MS


@LIVE
def test_a_server_that_is_started_again_is_found_again(web: Callable[..., WebServer], path: str) -> None:
    server = web()
    with Watched(server.url(path)) as watched:
        watched.until_predictions(10)
        server.kill()
        watched.until_state("offline")
        server.start()
        watched.until_predictions(10, epoch=1)
    assert watched.stream.stats.reconnects == 1
    assert watched.error is None


def test_a_finite_stream_by_http_is_a_file(web: Callable[..., WebServer]) -> None:
    with Stream(BurntNumberReader(), web().url("/file.ts")) as stream:
        assert not stream.source.live
        assert stream.policy == "every"
        assert [int(each.label) for each in stream] == list(range(FRAMES))
        assert stream.stats.predicted == stream.stats.captured == FRAMES


def test_datagrams_are_read_from_the_next_key_picture(
    web: Callable[..., WebServer], clip: Callable[[str], EncodedClip]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = web(datagrams={port: str(clip("ts").path)})
    with Stream(BurntNumberReader(), f"udp://127.0.0.1:{port}", max_frames=90) as stream:
        predictions = list(stream)
    assert UNREADABLE not in {each.label for each in predictions}
    assert [each.frame for each in predictions] == sorted({each.frame for each in predictions})
    hidden = sorted(hidden_ms(each, server.sent) for each in predictions[35:])
    assert max(-hidden[0], hidden[-1]) < HIDDEN_MS
