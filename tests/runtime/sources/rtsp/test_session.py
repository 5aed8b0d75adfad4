"""Sessions with a server that behaves as the test says: odd answers, transports, authentication, endings, reports."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest
from camera_servers.rtp_packets import SOURCE, Packetizer, goodbye, rtp, sender_report
from camera_servers.scripted_rtsp import Request, Script, ScriptedRtsp, description, endless, text_of

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.addresses import split_address
from vitedge.runtime.sources.rtsp import session as session_module
from vitedge.runtime.sources.rtsp.access_units import AccessUnit
from vitedge.runtime.sources.rtsp.errors import RtspError, StatusError, TransportError
from vitedge.runtime.sources.rtsp.session import Session, playable_track

pytestmark = pytest.mark.timeout(60)

UNITS = [b"\0\0\0\1" + bytes((0x65 if not place else 0x61, 0x80, place + 1)) * 50 for place in range(10)]
PLAIN = Script(description("H264"), lambda: endless(UNITS, Packetizer()))
SECOND = 1_000_000_000
DIGEST = 'Digest realm="cam", nonce="{}", qop="auth", algorithm=SHA-256'


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedRtsp]]:
    """``serve(transports=…)`` starts a server that differs from ``PLAIN`` in some fields."""
    with ExitStack() as running:
        yield lambda **changes: running.enter_context(ScriptedRtsp(replace(PLAIN, **changes)))


def opened(address: str, timeout: float = 5.0) -> Session:
    parts = split_address(address)
    assert parts is not None
    return Session(parts, lambda host, _: [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)], timeout)


def playing(address: str, *transports: str, timeout: float = 5.0) -> Session:
    """Return a session that plays; the caller closes it."""
    session = opened(address, timeout)
    try:
        track = playable_track(session.description)
        assert track is not None
        session.play(track, transports or ("tcp", "udp"))
    except BaseException:
        session.close()
        raise
    return session


def read(address: str, count: int = 12, *transports: str) -> list[AccessUnit]:
    with closing(playing(address, *transports)) as session:
        return [unit for unit in (session.read(5.0) for _ in range(count)) if unit is not None]


def check(units: list[AccessUnit]) -> None:
    begin = UNITS.index(units[0].data)
    assert [unit.data for unit in units] == [UNITS[(begin + place) % len(UNITS)] for place in range(len(units))]
    assert {after.timestamp - before.timestamp for before, after in itertools.pairwise(units)} == {3_000}
    assert not any(unit.damaged for unit in units)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_pictures_come_by_each_transport(transport: str, serve: Callable[..., ScriptedRtsp]) -> None:
    server = serve()
    check(read(server.url(), 40, transport))
    assert server.methods[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    setup = server.requests[2]
    assert setup.uri == f"rtsp://127.0.0.1:{server.port}/cam/trackID=1"
    assert ("interleaved" in setup.headers["transport"]) == (transport == "tcp")
    assert server.requests[3].headers["session"] == "5Ab-9"


def test_the_end_of_a_session_is_told(serve: Callable[..., ScriptedRtsp]) -> None:
    server = serve()
    read(server.url(), 3)
    deadline = time.monotonic() + 10
    while server.methods[-1] != "TEARDOWN" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.methods[-1] == "TEARDOWN"


class TestOddAnswers:
    CASES: tuple[Callable[[bytes], bytes], ...] = (
        lambda answer: answer.replace(b"\r\n", b"\n") if b"v=0" not in answer else answer,
        lambda answer: re.sub(rb"^[\w-]+:", lambda match: match[0].lower(), answer, flags=re.MULTILINE),
        lambda answer: re.sub(rb"^([\w-]+):", rb"\1 : ", answer, count=3, flags=re.MULTILINE),
        lambda answer: re.sub(rb"CSeq: \d+\r\n", b"", answer),
        lambda answer: re.sub(rb"CSeq: \d+", b"CSeq: 1", answer),
        lambda answer: b"\r\n" + answer,
        lambda answer: answer.replace(b"RTSP/1.0 200 OK", b"RTSP/1.0 200"),
        lambda answer: b"RTSP/1.0 100 Continue\r\n\r\n" + answer,
        lambda answer: b"OPTIONS * RTSP/1.0\r\nCSeq: 77\r\n\r\n" + answer,
        lambda answer: b"$\5\0\3abc" + answer,
        lambda answer: re.sub(rb"Session: .*\r\n", b"Session:  5Ab-9 ; Timeout=30 ; x=y\r\n", answer),
        lambda answer: re.sub(rb"Session: .*\r\n", b"", answer),
        lambda answer: re.sub(rb"Content-Base: .*\r\n", b"", answer),
        lambda answer: re.sub(rb"Transport: (.*)\r\n", rb"Transport: \1;ssrc=1234;mode=\"PLAY\"\r\n", answer),
        lambda answer: re.sub(rb";interleaved=0-1", rb"", answer),
    )

    @pytest.mark.parametrize("place", range(len(CASES)))
    def test_are_read(self, place: int, serve: Callable[..., ScriptedRtsp]) -> None:
        check(read(serve(answer=lambda _, answer: self.CASES[place](answer)).url()))

    def test_options_that_are_not_known_are_no_error(self, serve: Callable[..., ScriptedRtsp]) -> None:
        def answer(request: Request, answer: bytes) -> bytes:
            return text_of("501 Not Implemented") if request.method == "OPTIONS" else answer

        check(read(serve(answer=answer).url()))

    def test_packets_before_the_answer_to_play_are_kept(self, serve: Callable[..., ScriptedRtsp]) -> None:
        early = Packetizer(number=64_000).packets(UNITS[0], 0)
        units = read(serve(early=early).url(), 3)
        assert units[0].data == UNITS[0]
        assert units[0].timestamp == 0

    @pytest.mark.parametrize(
        ("control", "uri"),
        [
            ("trackID=1", "rtsp://127.0.0.1:{port}/cam/trackID=1"),
            ("rtsp://camera.local/x/y?z", "rtsp://camera.local/x/y?z"),
            ("/other/1", "rtsp://127.0.0.1:{port}/other/1"),
            ("*", "rtsp://127.0.0.1:{port}/cam/"),
            ("a b", "rtsp://127.0.0.1:{port}/cam/a%20b"),
        ],
    )
    def test_addresses_of_a_track(self, control: str, uri: str, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(description=description("H264", control=control))
        check(read(server.url()))
        assert server.requests[2].uri == uri.format(port=server.port)


class TestTransport:
    @pytest.mark.parametrize("transport", ["tcp", "udp"])
    def test_by_ipv6(self, transport: str) -> None:
        try:
            server = ScriptedRtsp(PLAIN, host="::1")
        except OSError as error:
            pytest.skip(f"no IPv6: {error}")
        with server:
            check(read(server.url(), 12, transport))

    def test_udp_where_tcp_is_not_offered(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(transports=("udp",))
        check(read(server.url()))
        assert server.methods.count("SETUP") == 2

    def test_none_that_is_offered(self, serve: Callable[..., ScriptedRtsp]) -> None:
        with pytest.raises(TransportError, match="RTP by UDP"):
            playing(serve(transports=("tcp",)).url(), "udp")
        with pytest.raises(TransportError):
            playing(serve(transports=()).url())

    @pytest.mark.parametrize(
        ("asked", "before", "after"),
        [
            ("tcp", b"RTP/AVP/TCP;unicast", b"RTP/AVP;unicast;server_port=1-2"),
            ("udp", b"RTP/AVP;unicast", b"RTP/AVP;multicast;destination=239.1.1.1"),
            ("udp", b"RTP/AVP;unicast", b"RTP/AVP/TCP;unicast;interleaved=0-1"),
        ],
    )
    def test_another_than_was_asked_for(
        self, asked: str, before: bytes, after: bytes, serve: Callable[..., ScriptedRtsp]
    ) -> None:
        with pytest.raises(TransportError):
            playing(serve(answer=lambda _, answer: answer.replace(before, after)).url(), asked)

    def test_datagrams_of_others_are_left_out(self, serve: Callable[..., ScriptedRtsp]) -> None:
        with closing(playing(serve(packets=lambda: ()).url(), "udp")) as session:
            assert session._datagrams is not None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind(("127.0.0.2", 0))
                stranger.sendto(rtp(UNITS[0][4:], 1, 0, marker=True), ("127.0.0.1", session._datagrams.port))
            with pytest.raises(TimeoutError):
                session.read(0.3)


class TestAuthentication:
    def test_a_digest_with_nonces_that_become_old(self, serve: Callable[..., ScriptedRtsp]) -> None:
        nonces = itertools.count()
        current = [""]

        def challenge(request: Request) -> str:
            """Each nonce is good for one request."""
            sent = re.search(r'nonce="(\w+)"', request.headers.get("authorization", ""))
            if sent is not None and sent[1] == current[0]:
                current[0] = ""
                return ""
            current[0] = f"n{next(nonces)}"
            return DIGEST.format(current[0]) + (", stale=true" if sent else "")

        server = serve(challenge=challenge)
        check(read(server.url("joe:secret@")))
        assert not any("secret" in str(request) for request in server.requests)

    @pytest.mark.parametrize("scheme", ["Basic realm=x", DIGEST.format("n")])
    def test_a_wrong_password_is_tried_once(self, scheme: str, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(challenge=lambda _: scheme)
        with pytest.raises(StatusError) as raised:
            opened(server.url("joe:wrong@"))
        assert (raised.value.status, raised.value.cause) == (401, "auth")
        assert ["authorization" in each.headers for each in server.requests] == [False, True]

    def test_a_server_that_closes_the_connection_behind_its_challenge(self, serve: Callable[..., ScriptedRtsp]) -> None:
        def answer(_: Request, answer: bytes) -> bytes:
            return answer.replace(b"CSeq", b"Connection: close\r\nCSeq") if b" 401 " in answer else answer

        server = serve(answer=answer, challenge=lambda each: "" if "authorization" in each.headers else "Basic")
        check(read(server.url("joe:secret@")))
        assert server.connections == 2

    def test_a_user_and_a_password_of_any_characters(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(challenge=lambda each: "" if "authorization" in each.headers else "Basic")
        check(read(server.url("j%C3%B6e:p@ss/w:d%25@")))
        expected = b64encode("jöe:p@ss/w:d%".encode()).decode()
        assert server.requests[1].headers["authorization"] == f"Basic {expected}"


class TestRedirection:
    @staticmethod
    def moved(location: str) -> Callable[[Request, bytes], bytes]:
        return lambda each, answer: (
            text_of("302 Found", f"Location: {location}") if each.method == "DESCRIBE" else answer
        )

    def test_to_another_server_is_followed_without_the_password(self, serve: Callable[..., ScriptedRtsp]) -> None:
        target = serve()
        first = serve(
            answer=self.moved(target.url(path="/moved")),
            challenge=lambda each: "" if "authorization" in each.headers else "Basic",
        )
        check(read(first.url("joe:secret@")))
        assert target.requests[0].uri == target.url(path="/moved")
        assert not any("authorization" in each.headers for each in target.requests)

    def test_on_the_same_server_keeps_the_password(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server: list[ScriptedRtsp] = []

        def answer(each: Request, answer: bytes) -> bytes:
            if each.method == "DESCRIBE" and each.uri.endswith("/cam"):
                return text_of("301 Moved", f"Location: {server[0].url(path='/new')}")
            return answer

        server.append(serve(answer=answer, challenge=lambda each: "" if "authorization" in each.headers else "Basic"))
        check(read(server[0].url("joe:secret@")))

    @pytest.mark.parametrize(
        "location", ["http://127.0.0.1/", "file:///etc/passwd", "rtsps://127.0.0.1/", "/cam", "", "rtsp://"]
    )
    def test_to_something_else_is_refused(self, location: str, serve: Callable[..., ScriptedRtsp]) -> None:
        with pytest.raises(RtspError):
            opened(serve(answer=self.moved(location)).url())

    def test_does_not_go_on_for_ever(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server: list[ScriptedRtsp] = []
        server.append(serve(answer=lambda each, answer: self.moved(server[0].url())(each, answer)))
        with pytest.raises(RtspError, match="redirects more than"):
            opened(server[0].url())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("status", "cause"),
        [
            ("403 Forbidden", "auth"),
            ("404 Not Found", "not_found"),
            ("454 Session", "not_found"),
            ("500 Oh", "network"),
        ],
    )
    def test_a_status(self, status: str, cause: str, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(answer=lambda each, answer: text_of(status) if each.method == "DESCRIBE" else answer)
        with pytest.raises(StatusError) as raised:
            opened(server.url())
        assert (raised.value.status, raised.value.cause) == (int(status[:3]), cause)

    def test_a_compressed_description(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(
            answer=lambda _, answer: answer.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type")
        )
        with pytest.raises(RtspError, match="compressed, as gzip"):
            opened(server.url())

    @pytest.mark.parametrize(
        "noise", [b"RTSP/1.0 100 Continue\r\n\r\n", b"\r\n", b"$\0\0\1x", b"OPTIONS * RTSP/1.0\r\n\r\n", b"X"]
    )
    def test_an_answer_without_an_end(self, noise: bytes, serve: Callable[..., ScriptedRtsp]) -> None:
        """It ends at a bound, or when the time is over."""
        server = serve(answer=lambda _, __: noise * 200_000)
        with pytest.raises((RtspError, OSError)):
            opened(server.url(), timeout=1.0)

    def test_silence(self, serve: Callable[..., ScriptedRtsp]) -> None:
        with pytest.raises(TimeoutError):
            opened(serve(answer=lambda _, __: None).url(), timeout=0.3)

    def test_an_answer_in_drops(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(answer=lambda _, __: b"RTSP/1.0 200 OK\r\nX: ")
        with pytest.raises(TimeoutError):
            opened(server.url(), timeout=0.3)


@pytest.mark.parametrize("seed", range(20))
def test_any_answers_are_read_or_refused(seed: int, serve: Callable[..., ScriptedRtsp]) -> None:
    """Bytes are changed, left out, and put in, wherever it is."""
    chosen = random.Random(seed)

    def answer(_: Request, answer: bytes) -> bytes:
        for _ in range(chosen.randrange(4)):
            place, length = chosen.randrange(len(answer)), chosen.choice((0, 1, 1, 5))
            answer = answer[:place] + chosen.randbytes(chosen.choice((0, 1, 3))) + answer[place + length :]
        return answer

    try:
        session = playing(serve(answer=answer).url("joe:x@"), timeout=0.5)
    except (FrameSourceError, OSError, AssertionError):
        return
    with closing(session), contextlib.suppress(FrameSourceError, OSError):
        while session.read(0.5) is not None and session.received < 40:
            pass


class TestEnd:
    def test_of_the_connection(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(packets=lambda: Packetizer().packets(UNITS[0], 0), ends=True)
        with closing(playing(server.url())) as session:
            unit = session.read(5.0)
            assert unit is not None
            assert unit.data == UNITS[0]
            assert session.read(5.0) is None

    @pytest.mark.parametrize("transport", ["tcp", "udp"])
    def test_that_the_sender_tells(self, transport: str, serve: Callable[..., ScriptedRtsp]) -> None:
        packets = [*Packetizer().packets(UNITS[0], 0), None, (1, goodbye(source=1)), None, (1, goodbye())]
        with closing(playing(serve(packets=lambda: packets).url(), transport)) as session:
            assert session.read(5.0) is not None
            assert session.read(5.0) is None

    def test_that_does_not_come(self, serve: Callable[..., ScriptedRtsp]) -> None:
        with closing(playing(serve(packets=lambda: ()).url())) as session, pytest.raises(TimeoutError):
            session.read(0.2)

    @pytest.mark.parametrize("transport", ["tcp", "udp"])
    def test_by_another_thread_is_immediate(self, transport: str, serve: Callable[..., ScriptedRtsp]) -> None:
        session = playing(serve(packets=lambda: ()).url(), transport)
        found: list[Any] = []
        reader = threading.Thread(target=lambda: found.append(session.read(50.0)), daemon=True)
        reader.start()
        time.sleep(0.1)
        session.interrupt()
        reader.join(20)
        assert found == [None]
        session.close()
        session.interrupt()
        session.close()


class TestLongSessions:
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("7;timeout=20", 10),
            ("7 ; x=y ; Timeout = 20 ; z", 10),
            ("7", 30),
            ("7;timeout=0", 30),
            ("7;timeout=-5", 30),
            ("7;timeout=1", 0.5),
            ("7;timeout=999999", 1800),
            ("7;timeout=9999999999999", 30),
        ],
    )
    def test_know_when_they_end(self, header: str, seconds: float, serve: Callable[..., ScriptedRtsp]) -> None:
        with closing(playing(serve(session=header).url())) as session:
            assert session._keep_alive_ns == seconds * SECOND

    def test_are_kept_alive(self, serve: Callable[..., ScriptedRtsp]) -> None:
        """Half of the timeout after it began; with another nonce, if the server wants one."""
        asked = itertools.count()

        def challenge(request: Request) -> str:
            return DIGEST.format("n") if request.method == "GET_PARAMETER" and not next(asked) else ""

        server = serve(session="7;timeout=4", challenge=challenge)
        read(server.url("joe:x@"), 75)
        alive = [each for each in server.requests if each.method == "GET_PARAMETER"]
        assert ["authorization" in each.headers for each in alive[:2]] == [False, True]
        assert {each.headers["session"] for each in alive} == {"7"}

    def test_are_kept_alive_by_options_where_there_is_nothing_else(self, serve: Callable[..., ScriptedRtsp]) -> None:
        server = serve(session="7;timeout=1", methods="OPTIONS, DESCRIBE, SETUP, PLAY")
        read(server.url(), 45)
        assert server.methods.count("OPTIONS") >= 2

    @pytest.mark.parametrize("transport", ["tcp", "udp"])
    def test_get_reports(
        self, transport: str, serve: Callable[..., ScriptedRtsp], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_module, "FIRST_REPORT_NS", SECOND // 10)
        server = serve()
        read(server.url(), 12, transport)
        assert server.reports
        assert server.reports[0][:2] == b"\x81\xc9"
        assert server.reports[0][8:12] == SOURCE.to_bytes(4, "big")


class TestTheSendersClock:
    WALL = 1_700_000_000 * SECOND

    def told(self, server: ScriptedRtsp) -> list[int]:
        """What the session says of it, until the end of the stream."""
        found: list[int] = []
        with closing(playing(server.url())) as session:
            while session.read(5.0) is not None:
                zero = session.sender_zero_ns()
                found += [] if zero is None else [zero]
        return found

    def packets(self, *errors_ns: int, source: int = SOURCE, ticks: int = 180_000) -> Callable[[], Iterator[Any]]:
        """Pictures, with reports between them whose clock is wrong by so much."""

        def made() -> Iterator[Any]:
            packetizer = Packetizer()
            for place, error in enumerate(errors_ns):
                timestamp = ticks * (place + 1)
                yield from packetizer.packets(UNITS[0], timestamp)
                wall = self.WALL + SECOND * timestamp // 90_000 + error
                yield 1, sender_report(timestamp, wall, source=source)
            yield from packetizer.packets(UNITS[0], 10 * ticks)

        return made

    def test_is_believed_once_two_reports_agree(self, serve: Callable[..., ScriptedRtsp]) -> None:
        found = self.told(serve(packets=self.packets(0, 1_000_000), ends=True))
        assert found
        assert found[0] == pytest.approx(self.WALL + 1_000_000, abs=10)

    @pytest.mark.parametrize("errors", [(0,), (0, SECOND), (0, SECOND, -SECOND), (-3 * 10**18, -3 * 10**18)])
    def test_is_not_believed_before(self, errors: tuple[int, ...], serve: Callable[..., ScriptedRtsp]) -> None:
        assert self.told(serve(packets=self.packets(*errors), ends=True)) == []

    def test_is_not_believed_where_reports_follow_at_once(self, serve: Callable[..., ScriptedRtsp]) -> None:
        assert self.told(serve(packets=self.packets(0, 0, 0, ticks=3_000), ends=True)) == []

    def test_of_another_sender_is_not_believed(self, serve: Callable[..., ScriptedRtsp]) -> None:
        assert self.told(serve(packets=self.packets(0, 0, source=3), ends=True)) == []


def test_packets_that_overtake_each_other_by_udp_lose_nothing(serve: Callable[..., ScriptedRtsp]) -> None:
    def packets() -> Iterator[Any]:
        packetizer = Packetizer(size=20)
        for place in range(8):
            sent = packetizer.packets(UNITS[place], 3_000 * place)
            if not place:
                yield from sent
                continue
            yield from (each for pair in zip(sent[1::2], sent[::2], strict=False) for each in pair)
            yield from sent[len(sent) // 2 * 2 :]

    with closing(playing(serve(packets=packets).url(), "udp")) as session:
        units = [session.read(5.0) for _ in range(8)]
        assert session.lost == 0
    check([unit for unit in units if unit is not None])


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_lost_packets_are_counted_and_mark_their_pictures(transport: str, serve: Callable[..., ScriptedRtsp]) -> None:
    def packets() -> Iterator[Any]:
        packetizer = Packetizer(size=20)
        for place in range(8):
            sent = packetizer.packets(UNITS[place], 3_000 * place)
            yield from sent if place != 4 else sent[:2] + sent[4:]
            yield None

    with closing(playing(serve(packets=packets).url(), transport)) as session:
        units = [session.read(5.0) for _ in range(8)]
        assert (session.lost, session.received) == (2, 8 * len(Packetizer(size=20).packets(UNITS[0], 0)) - 2)
    assert [unit.damaged for unit in units if unit is not None] == [place == 4 for place in range(8)]
