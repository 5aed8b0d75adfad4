"""Errors of network streams: each has its cause, and none has a secret."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import ClassVar

import pytest

from vitedge.errors import Cause, UsageError
from vitedge.runtime.sources.options import CameraOptions
from vitedge.runtime.sources.video.network import open_network

av = pytest.importorskip("av")

from answering import Answering, http, refused, rtsp  # noqa: E402

pytestmark = pytest.mark.timeout(120)

SECRETS = ("hunter2", "p@ss/w:d", "100%", "a?b#c", "%70%77")


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


class TestCauses:
    """Each has a text of its own, and says which command finds out more."""

    ANSWERS: ClassVar[dict[str, tuple[str, Callable[[bytes], bytes | None], Cause, str]]] = {
        "rtsp, wrong password": (
            "rtsp",
            rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"'),
            "auth",
            "does not accept the user",
        ),
        "rtsp, forbidden": ("rtsp", rtsp("403 Forbidden"), "auth", "forbids access"),
        "rtsp, wrong path": ("rtsp", rtsp("404 Not Found"), "not_found", "no such stream"),
        "rtsp, server error": ("rtsp", rtsp("500 Internal Server Error"), "network", "answers with an error"),
        "rtsp, silence": ("rtsp", lambda _: None, "timeout", r"was given 1\.5 s"),
        "rtsp, nonsense": ("rtsp", lambda _: b"\r\n\r\n" * 9 + b"SSH-2.0-x\r\n", "network", "does not speak RTSP"),
        "http, wrong password": ("http", http("401 Unauthorized"), "auth", "does not accept the user"),
        "http, forbidden": ("http", http("403 Forbidden"), "auth", "forbids access"),
        "http, wrong path": ("http", http("404 Not Found"), "not_found", "no such stream"),
        "http, server error": ("http", http("503 Service Unavailable"), "network", "answers with an error"),
        "http, silence": ("http", lambda _: None, "timeout", r"was given 1\.5 s"),
        "http, a page": (
            "http",
            http("200 OK", b"<html>hello</html>" * 99),
            "no_video",
            "nothing that FFmpeg can read",
        ),
        "http, nothing": ("http", http("200 OK"), "no_video", "sends nothing"),
    }

    @pytest.mark.parametrize("case", ANSWERS)
    def test_of_an_answer(self, case: str, answering: Callable[..., Answering]) -> None:
        scheme, answer, cause, text = self.ANSWERS[case]
        server = answering(answer)
        error = refused(f"{scheme}://joe:hunter2@127.0.0.1:{server.port}/cam")
        assert server.requests
        assert (error.cause, error.__cause__, error.__context__) == (cause, None, None)
        assert re.search(text, error.problem), error.problem
        assert error.problem.startswith(f"{scheme}://***@127.0.0.1:{server.port}/cam")
        assert error.expected
        assert error.fix

    def test_nobody_listens(self) -> None:
        port = unused_port()
        for scheme in ("rtsp", "http", "rtmp", "tcp"):
            error = refused(f"{scheme}://127.0.0.1:{port}/a/b")
            assert error.cause == "refused"
            assert f"nc -zv 127.0.0.1 {port}" in error.fix

    def test_an_unknown_host(self) -> None:
        error = refused("rtsp://no-such-camera.invalid/1")
        assert error.cause == "network"
        assert "no such host" in error.problem
        assert "getent hosts no-such-camera.invalid" in error.fix

    def test_no_encryption_where_some_is_expected(self, answering: Callable[..., Answering]) -> None:
        server = answering(http("400 Bad Request"))
        error = refused(f"https://127.0.0.1:{server.port}/cam")
        assert error.cause == "tls"
        assert f"openssl s_client -connect 127.0.0.1:{server.port}" in error.fix

    def test_a_user_is_asked_for(self, answering: Callable[..., Answering]) -> None:
        server = answering(rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"'))
        error = refused(f"rtsp://127.0.0.1:{server.port}/cam")
        assert "asks for a user and a password" in error.problem
        assert "%40" in error.fix

    def test_a_port_to_which_nobody_sends(self) -> None:
        error = refused(f"udp://127.0.0.1:{unused_port()}")
        assert error.cause == "timeout"

    def test_a_protocol_that_this_build_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lacks(*_: object, **__: object) -> None:
            raise av.error.ProtocolNotFoundError(1330794744, "Protocol not found")

        monkeypatch.setattr(av, "open", lacks)
        error = refused("srt://127.0.0.1:9000")
        assert error.cause == "codec"
        assert "SRT is not in this build of FFmpeg" in error.problem

    @pytest.mark.parametrize(
        "address",
        ["rtsp://", "rtsp:///cam", "http://", "rtsp://h:99999/", "rtsp://h/\n", "rtsp://h/\udcff", "srt://", "h"],
    )
    def test_what_is_no_address(self, address: str) -> None:
        assert refused(address).expected

    def test_options_of_another_source(self) -> None:
        with pytest.raises(UsageError, match="CameraOptions"):
            open_network("rtsp://127.0.0.1/", CameraOptions())


class TestSecrets:
    """No part of a password appears, neither in errors nor on the terminal."""

    @pytest.mark.parametrize("secret", SECRETS)
    @pytest.mark.parametrize("kind", ["refused", "unauthorized", "silent", "unknown host"])
    def test_of_errors(self, kind: str, secret: str, answering: Callable[..., Answering]) -> None:
        unauthorized = rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"')
        if kind == "refused":
            port = unused_port()
        elif kind != "unknown host":
            port = answering(unauthorized if kind == "unauthorized" else lambda _: None).port
        host = "no-such-camera.invalid" if kind == "unknown host" else f"127.0.0.1:{port}"
        error = refused(f"rtsp://joe:{secret}@{host}/cam")
        told = "".join(traceback.format_exception(error)) + repr(error.__dict__)
        parts = [secret, *re.split(r"[@/:?#%]", secret)]
        shown = re.sub(r'File ".*', "", told)
        assert not [part for part in parts if len(part) > 2 and part in shown]
        assert "joe" not in shown

    def test_of_the_terminal(self) -> None:
        code = (
            "from vitedge.runtime.sources.video.network import open_network\n"
            f"try: open_network('rtsp://joe:hunter2@127.0.0.1:{unused_port()}/x')\n"
            "except Exception as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "refuses the connection" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
        assert done.stderr == ""

    @pytest.mark.parametrize("written", ["p@ss/w:d", "p%40ss%2Fw%3Ad", "p@ss/w%3Ad"])
    @pytest.mark.parametrize("scheme", ["rtsp", "http"])
    def test_a_password_is_sent_as_it_is_meant(
        self, scheme: str, written: str, answering: Callable[..., Answering]
    ) -> None:
        asks = rtsp("401 Unauthorized", 'WWW-Authenticate: Basic realm="c"')
        server = answering(asks if scheme == "rtsp" else http("401 Unauthorized"))
        refused(f"{scheme}://joe:{written}@127.0.0.1:{server.port}/cam")
        sent = [match[1] for each in server.requests if (match := re.search(rb"Authorization: Basic (\S+)", each))]
        assert sent
        assert {base64.b64decode(each) for each in sent} == {b"joe:p@ss/w:d"}
