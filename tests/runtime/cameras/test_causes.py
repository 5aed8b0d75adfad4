"""Cameras that cannot be opened: the cause, and no secret in any text."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import pytest

pytest.importorskip("av")

from camera_servers.number_reader import BurntNumberReader
from camera_servers.servers import RtspServer, WebServer
from camera_servers.watched import Watched

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.stream.stream import Stream

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_thread_survives")]

USER, PASSWORD, WRONG = "joe", "se:sa/me@42", "open-barley!17"
BRIEF = NetworkOptions(open_timeout=5.0, read_timeout=2.0)


def refused_opening(address: str) -> FrameSourceError:
    """What the stream raises; the text of its traceback has no password."""
    with pytest.raises(FrameSourceError) as raised:
        Stream(BurntNumberReader(), address, options=BRIEF)
    text = "".join(traceback.format_exception(raised.value))
    assert PASSWORD not in text
    assert WRONG not in text
    assert raised.value.fix
    return raised.value


@pytest.fixture
def locked(serve: Callable[..., RtspServer]) -> RtspServer:
    """A camera that asks for a user and a password."""
    return serve("h264", user=USER, password=PASSWORD)


def test_the_right_password_opens_a_camera(locked: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Stream(BurntNumberReader(), locked.url("/cam", user=USER, password=PASSWORD), max_frames=3) as stream:
        assert len(list(stream)) == 3
        assert PASSWORD not in stream.source.name
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(("user", "password"), [("", ""), (USER, WRONG), ("jane", PASSWORD)])
def test_a_wrong_user_or_password_is_auth(locked: RtspServer, user: str, password: str) -> None:
    assert refused_opening(locked.url("/cam", user=user, password=password)).cause == "auth"


def test_a_wrong_password_is_not_tried_again(locked: RtspServer) -> None:
    with pytest.raises(FrameSourceError) as raised:
        Stream(BurntNumberReader(), locked.url("/cam", user=USER, password=WRONG), reconnect=True, options=BRIEF)
    assert raised.value.cause == "auth"


def test_a_password_that_is_changed_ends_a_stream(locked: RtspServer) -> None:
    with Watched(locked.url("/cam", user=USER, password=PASSWORD), options=BRIEF) as watched:
        watched.until_predictions(5)
        locked.kill()
        locked.start(password=WRONG)
        watched.until_end()
    assert isinstance(watched.error, FrameSourceError)
    assert watched.error.cause == watched.changes[-1].cause == "auth"
    assert watched.changes[-1].state == "ended"
    assert all(PASSWORD not in each.message for each in watched.changes)


def test_a_wrong_path_is_not_found(camera: RtspServer) -> None:
    assert refused_opening(camera.url("/nothing")).cause == "not_found"


def test_a_camera_that_sends_sound_alone_is_no_video(camera: RtspServer) -> None:
    assert refused_opening(camera.url("/sound")).cause == "no_video"


def test_a_port_without_a_camera_is_refused(camera: RtspServer) -> None:
    camera.kill()
    assert refused_opening(camera.url("/cam", user=USER, password=PASSWORD)).cause == "refused"


class TestWeb:
    def test_a_wrong_password_is_auth(self, web: Callable[..., WebServer]) -> None:
        server = web(user=USER, password=PASSWORD)
        assert refused_opening(server.url("/mjpeg", user=USER, password=WRONG)).cause == "auth"
        assert refused_opening(server.url("/live.ts")).cause == "auth"

    def test_a_wrong_path_is_not_found(self, web: Callable[..., WebServer]) -> None:
        assert refused_opening(web().url("/nothing")).cause == "not_found"

    def test_a_page_is_no_video(self, web: Callable[..., WebServer]) -> None:
        assert refused_opening(web().url("/page.html")).cause in ("no_video", "codec")

    def test_http_where_a_certificate_is_expected_is_tls(self, web: Callable[..., WebServer]) -> None:
        assert refused_opening(web().url("/mjpeg").replace("http:", "https:")).cause == "tls"
