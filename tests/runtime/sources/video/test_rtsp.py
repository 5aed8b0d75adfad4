"""Pictures of our own RTSP client, decoded; what is left to FFmpeg; and what the errors say."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.base import Frame
from vitedge.runtime.sources.options import NetworkOptions
from vitedge.runtime.sources.video import rtsp
from vitedge.runtime.sources.video.network import open_network

pytest.importorskip("av")

from camera_servers import burnt_numbers
from camera_servers.encoding import encode, moving_pictures
from camera_servers.rtp_packets import Packetizer, goodbye
from camera_servers.scripted_rtsp import (
    Request,
    Script,
    ScriptedRtsp,
    description,
    endless,
    parameter_sets,
    text_of,
)

pytestmark = pytest.mark.timeout(60)

FRAMES, GOP = 30, 10
QUICK = NetworkOptions(open_timeout=3.0, read_timeout=1.0)
FFMPEG = "Lavf"
CODECS = pytest.mark.parametrize("codec", ["h264", "hevc"])


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Access units of numbered pictures, by codec."""
    folder = tmp_path_factory.mktemp("clips")
    clips = {codec: encode(folder / codec, moving_pictures(FRAMES), codec, gop=GOP) for codec in ("h264", "hevc")}
    return {codec: [each.data for each in clip.pictures()] for codec, clip in clips.items()}


@pytest.fixture
def serve(units: dict[str, list[bytes]]) -> Iterator[Callable[..., ScriptedRtsp]]:
    """``serve(transports=…)`` starts a camera of H.264 that differs in some fields of its script."""
    text = description("H264", f"packetization-mode=1;{parameter_sets(units['h264'][0])}")
    plain = Script(text, lambda: endless(units["h264"], Packetizer()))
    with ExitStack() as running:

        def start(*, certificate: str = "", **changes: Any) -> ScriptedRtsp:
            return running.enter_context(ScriptedRtsp(replace(plain, **changes), certificate))

        yield start


def frames(address: str, count: int, options: NetworkOptions = QUICK) -> tuple[list[Frame], tuple[str, ...]]:
    """Return the first frames, and the notices after them."""
    with open_network(address, options) as source:
        found = [frame for _, frame in zip(range(count), source, strict=False)]
        return found, source.notices


def numbers(found: list[Frame]) -> list[int | None]:
    return [burnt_numbers.read(frame.image) for frame in found]


def steps(found: list[Frame]) -> set[int]:
    return {(after - before) % FRAMES for before, after in pairwise(numbers(found))}


def refused(address: str, options: NetworkOptions = QUICK) -> FrameSourceError:
    with pytest.raises(FrameSourceError) as raised:
        open_network(address, options)
    assert raised.value.__context__ is None
    assert "secret" not in "".join(traceback.format_exception(raised.value))
    return raised.value


def interrupted(made: Callable[[], Iterator[Any]]) -> Callable[[], Iterator[Any]]:
    """Send packets, and then the farewell of the sender."""

    def packets() -> Iterator[Any]:
        yield from made()
        yield 1, goodbye()

    return packets


class TestPictures:
    @pytest.mark.parametrize("markers", ["last", "none", "every"])
    @CODECS
    def test_come_whole_and_in_order(
        self, codec: str, markers: Any, serve: Callable[..., ScriptedRtsp], units: dict[str, list[bytes]]
    ) -> None:
        kind: Any = {"h264": "H264", "hevc": "H265"}[codec]
        server = serve(
            description=description(kind, ""),
            packets=lambda: endless(units[codec], Packetizer(kind, markers=markers, aggregates=True)),
        )
        found, notices = frames(server.url(), 20)
        assert steps(found) == {1}
        assert not any(frame.corrupt for frame in found)
        assert notices == ()
        assert all(FFMPEG not in each.headers["user-agent"] for each in server.requests)
        assert found[0].backlog
        assert not found[-1].backlog
        assert {frame.age_basis for frame in found} == {"timestamps"}

    def test_have_a_rate_and_times(self, serve: Callable[..., ScriptedRtsp]) -> None:
        with open_network(serve().url(), QUICK) as source:
            assert (source.live, source.length, source.fps) == (True, None, 30.0)
            found = [frame for _, frame in zip(range(5), source, strict=False)]
        assert [frame.pts for frame in found] == pytest.approx([place / 30 for place in range(5)])

    @CODECS
    def test_before_the_first_key_picture_are_skipped(
        self, codec: str, serve: Callable[..., ScriptedRtsp], units: dict[str, list[bytes]]
    ) -> None:
        kind: Any = {"h264": "H264", "hevc": "H265"}[codec]
        begin = units[codec][GOP - 4 :] + units[codec][: GOP - 4]
        server = serve(description=description(kind, ""), packets=lambda: endless(begin, Packetizer(kind)))
        found, notices = frames(server.url(), 5)
        assert numbers(found) == [GOP + place for place in range(5)]
        assert notices == ()

    def test_are_not_waited_for_when_the_source_opens(
        self,
        serve: Callable[..., ScriptedRtsp],
        units: dict[str, list[bytes]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Some cameras send a key picture in ten seconds."""
        monkeypatch.setattr(rtsp, "PROBED_SECONDS", 0.2)
        begin = units["h264"][1:] + units["h264"][:1]
        with open_network(serve(packets=lambda: endless(begin, Packetizer())).url(), QUICK) as source:
            assert source.fps is None
            assert burnt_numbers.read(next(iter(source)).image) == GOP

    def test_with_lost_packets_are_marked_and_counted(
        self, serve: Callable[..., ScriptedRtsp], units: dict[str, list[bytes]]
    ) -> None:
        def packets() -> Iterator[Any]:
            packetizer = Packetizer(size=100)
            for place in range(GOP):
                sent = packetizer.packets(units["h264"][place], 3_000 * place)
                yield from sent[:1] + sent[2:] if place == 3 else [] if place == 6 else sent
                yield None

        found: list[Frame] = []
        with open_network(serve(packets=interrupted(packets)).url(), QUICK) as source:
            with pytest.raises(FrameSourceError, match="the other side ended it") as raised:
                found.extend(source)
            assert raised.value.cause == "eof"
            told = source.notices
        read = {round((frame.pts or 0) * 30): frame.corrupt for frame in found}
        assert [place for place, corrupt in read.items() if not corrupt] == [0, 1, 2, 4, 5, 8, 9]
        sent = [len(Packetizer(size=100).packets(unit, 0)) for unit in units["h264"][:GOP]]
        assert told[-1].endswith(f": {1 + sent[6]} of {sum(sent)} packets were lost on the way")
        assert any("damaged" in each or "not decodable" in each for each in told)

    def test_wait_for_nobody_who_closes_the_source(
        self, serve: Callable[..., ScriptedRtsp], units: dict[str, list[bytes]]
    ) -> None:
        """The read of another thread ends at once, and not when its time is over."""
        ended, over = threading.Event(), threading.Event()

        def packets() -> Iterator[Any]:
            yield from Packetizer().packets(units["h264"][0], 0)
            over.wait(50)

        source = open_network(serve(packets=packets).url(), NetworkOptions(read_timeout=1000.0))

        def read() -> None:
            for _ in source:
                threading.Timer(0.2, source.close).start()
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        assert ended.wait(30)
        over.set()


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """A key and a certificate that nobody signed."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    path = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=camera", "-keyout", str(path)]
    made = subprocess.run([*command, "-days", "2"], capture_output=True, text=True, check=True)
    path.write_text(path.read_text("ascii") + made.stdout, "ascii")
    return str(path)


class TestEncryption:
    def test_of_a_camera_that_signs_its_own_certificate(
        self, serve: Callable[..., ScriptedRtsp], certificate: str
    ) -> None:
        server = serve(certificate=certificate)
        found, notices = frames(server.url(), 10)
        assert steps(found) == {1}
        assert notices == ()

    def test_is_not_left_for_datagrams(self, serve: Callable[..., ScriptedRtsp], certificate: str) -> None:
        server = serve(certificate=certificate)
        found, notices = frames(server.url(), 5, replace(QUICK, transport="udp"))
        assert len(found) == 5
        assert "encrypted connection, and not by UDP" in notices[0]
        assert ["interleaved" in each.headers.get("transport", "") for each in server.requests][:3] == [
            False,
            False,
            True,
        ]

    def test_that_does_not_come_about(self, serve: Callable[..., ScriptedRtsp]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as plain:

            def answer() -> None:
                connection, _ = plain.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(text_of("400 Bad Request"))

            threading.Thread(target=answer, daemon=True).start()
            error = refused(f"rtsps://joe:secret@127.0.0.1:{plain.getsockname()[1]}/cam")
        assert error.cause == "tls"
        assert "openssl s_client" in error.fix


class TestFfmpeg:
    """Plays what our client does not, with one error if it cannot either."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [("H264/90000", "MP4V-ES/90000"), ("RTP/AVP 96", "RTP/SAVP 96"), ("mode=1", "mode=2"), ("video 0", "video 9")],
    )
    def test_is_asked_only_where_it_is_needed(
        self, before: str, after: str, serve: Callable[..., ScriptedRtsp], units: dict[str, list[bytes]]
    ) -> None:
        text = description("H264", f"packetization-mode=1;{parameter_sets(units['h264'][0])}")
        assert before in text
        server = serve(description=text.replace(before, after))
        try:
            open_network(server.url(), replace(QUICK, open_timeout=1.0)).close()
        except FrameSourceError:
            assert before != "video 0"
        ours = [each.method for each in server.requests if FFMPEG not in each.headers["user-agent"]]
        theirs = [each.method for each in server.requests if FFMPEG in each.headers["user-agent"]]
        assert ("SETUP" in ours) == (before == "video 0")
        assert bool(theirs) == (before != "video 0")

    def test_tries_transports_that_we_do_not_speak(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(transports=())
        error = refused(server.url("joe:secret@"), replace(QUICK, open_timeout=2.0))
        asked = [each.headers["transport"] for each in server.requests if each.method == "SETUP"]
        assert any("multicast" in each for each in asked), asked
        assert (error.cause, "offers no transport" in error.problem) == ("network", True)

    def test_is_not_asked_where_a_transport_was_chosen(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(transports=("tcp",))
        error = refused(server.url(), replace(QUICK, transport="udp"))
        assert "does not offer RTP by UDP" in error.problem
        assert all(FFMPEG not in each.headers["user-agent"] for each in server.requests)

    def test_is_not_asked_without_a_video(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(description="v=0\nm=audio 0 RTP/AVP 8\nm=application 0 RTP/AVP 107\n")
        error = refused(server.url())
        assert (error.cause, "it holds application, audio" in error.problem) == ("no_video", True)
        assert server.methods == ["OPTIONS", "DESCRIBE"]


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "cause", "text"),
        [
            ("401 Unauthorized", "auth", "does not accept the user"),
            ("403 Forbidden", "auth", "forbids access"),
            ("404 Not Found", "not_found", "no such stream"),
            ("454 Session Not Found", "not_found", "no such stream"),
            ("453 Not Enough Bandwidth", "network", "answers with an error: 453 Not Enough Bandwidth"),
            ("503 Service Unavailable", "network", "answers with an error: 503 Service Unavailable"),
        ],
    )
    @pytest.mark.parametrize("method", ["DESCRIBE", "SETUP", "PLAY"])
    def test_of_a_status(
        self, method: str, status: str, cause: str, text: str, serve: Callable[..., ScriptedRtsp]
    ) -> None:
        challenge = "WWW-Authenticate: Basic realm=x"

        def answer(request: Request, answer: bytes) -> bytes:
            return text_of(status, challenge) if request.method == method else answer

        error = refused(serve(answer=answer).url("joe:secret@"))
        assert (error.cause, text in error.problem) == (cause, True), error.problem
        assert error.fix

    def test_of_a_server_that_plays_and_sends_nothing(self, serve: Callable[..., ScriptedRtsp]) -> None:
        error = refused(serve(packets=lambda: ()).url(), replace(QUICK, open_timeout=0.5))
        assert (error.cause, "it was given 0.5 s" in error.problem) == ("timeout", True)

    def test_of_a_server_that_plays_and_leaves(self, serve: Callable[..., ScriptedRtsp]) -> None:
        error = refused(serve(packets=lambda: (), ends=True).url())
        assert (error.cause, "before it sends a video" in error.problem) == ("eof", True)

    def test_of_a_server_that_sends_what_is_no_rtsp(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(answer=lambda _, __: b"HTTP/1.1 400 Bad Request\r\n\r\n")
        error = refused(server.url())
        assert (error.cause, error.problem) == ("network", f"{server.url()}: it does not speak RTSP on this port")
        assert "camera has started" in error.fix

    def test_of_words_of_the_server_that_look_like_a_password(self, serve: Callable[..., ScriptedRtsp]) -> None:
        words = "500 rtsp://joe:secret@camera/1"
        error = refused(serve(answer=lambda _, __: text_of(words)).url("joe:secret@"))
        assert error.cause == "network"
