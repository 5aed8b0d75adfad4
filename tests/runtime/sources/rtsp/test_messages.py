"""Answers of RTSP servers: as they should be, as they are, and as nobody should send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.rtsp.errors import RtspError
from vitedge.runtime.sources.rtsp.messages import Interleaved, Message, Splitter, write_interleaved, write_message
from vitedge.safety.limits import RTSP_BODY_BYTES, RTSP_HEAD_BYTES, RTSP_HEADERS

ANSWER = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nContent-Length: 4\r\n\r\nbody"
PACKET = write_interleaved(0, b"\x80\x60packet")


def test_an_answer() -> None:
    (message,) = Splitter().feed(ANSWER)
    assert isinstance(message, Message)
    assert (message.status, message.reason, message.header("cseq"), message.body) == (200, "OK", "3", b"body")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"RTSP/1.0 200 OK\nsession: 7\n\n", 200),  # LF alone, small letters
        (b"\r\n\r\nRTSP/1.0 200\r\nSESSION : 7\r\n\r\n", 200),  # empty lines before it, no reason
        (b"RTSP/1.0  404  Not Found\r\nSession:\r\n 7\r\n\r\n", 404),  # a folded header
        (b"RTSP/1.0 200 OK\r\nno colon\r\nSession: 7\r\n\r\n", 200),
    ],
)
def test_odd_answers(data: bytes, status: int) -> None:
    (message,) = Splitter().feed(data)
    assert isinstance(message, Message)
    assert (message.status, message.header("session")) == (status, "7")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_of_any_size(size: int) -> None:
    data, splitter = PACKET + ANSWER + b"\r\n" + PACKET + PACKET, Splitter()
    items = [item for at in range(0, len(data), size) for item in splitter.feed(data[at : at + size])]
    assert [type(item) for item in items] == [Interleaved, Message, Interleaved, Interleaved]
    assert items[0] == Interleaved(0, b"\x80\x60packet")


def test_a_request_of_the_server() -> None:
    (message,) = Splitter().feed(b"SET_PARAMETER rtsp://cam/ RTSP/1.0\r\nCSeq: 9\r\n\r\n")
    assert isinstance(message, Message)
    assert (message.status, message.method) == (None, "SET_PARAMETER")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n",
        b"RTSP/1.0 200 OK\r\n" + b"X: y\r\n" * (RTSP_HEADERS + 1) + b"\r\n",
        b"RTSP/1.0 200 OK\r\nX: " + b"y" * RTSP_HEAD_BYTES,
        b"RTSP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (RTSP_BODY_BYTES + 1),
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"\r\n" * (1 << 20),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(RtspError):
        Splitter().feed(data)


class TestNoiseBetweenPackets:
    def test_is_skipped_as_far_as_the_next_packet(self) -> None:
        splitter = Splitter()
        splitter.channels = frozenset({0, 1})
        items = splitter.feed(b"\xff\xfe$\x09noise" + PACKET + b"\x00\x01" + ANSWER + b"NOISE" + PACKET)
        assert [type(item) for item in items] == [Interleaved, Message, Interleaved]

    def test_does_not_last(self) -> None:
        splitter = Splitter()
        splitter.channels = frozenset({0, 1})
        with pytest.raises(RtspError, match="nothing that is RTSP"):
            splitter.feed(b"\xff" * (1 << 22))

    def test_a_packet_of_a_channel_that_nobody_asked_for_is_passed_whole(self) -> None:
        splitter = Splitter()
        splitter.channels = frozenset({0, 1})
        items = splitter.feed(write_interleaved(4, PACKET) + PACKET)
        assert [item.channel for item in items if isinstance(item, Interleaved)] == [4, 0]


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([ANSWER, PACKET, b"RTSP/", b"\r\n\r\n", b"$\0"]))))
def test_any_bytes_are_refused_or_read(pieces: list[bytes]) -> None:
    for channels in (frozenset[int](), frozenset({0, 1})):
        splitter = Splitter()
        splitter.channels = channels
        try:
            for piece in pieces:
                splitter.feed(piece)
        except FrameSourceError:
            continue


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=20), st.integers(1, 50))
def test_packets_come_out_as_they_went_in(packets: list[tuple[int, bytes]], size: int) -> None:
    data, splitter = b"".join(write_interleaved(*each) for each in packets), Splitter()
    items = [item for at in range(0, len(data), size) for item in splitter.feed(data[at : at + size])]
    assert [(item.channel, item.payload) for item in items if isinstance(item, Interleaved)] == packets


def test_no_value_of_a_server_adds_a_header() -> None:
    with pytest.raises(RtspError):
        write_message("PLAY rtsp://cam/ RTSP/1.0", [("Session", "1\r\nX: y")])
