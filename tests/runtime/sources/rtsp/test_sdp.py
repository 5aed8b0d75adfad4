"""Descriptions of streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.rtsp.errors import RtspError
from vitedge.runtime.sources.rtsp.sdp import parse_description
from vitedge.runtime.sources.rtsp.session import playable_track
from vitedge.safety.limits import RTSP_BODY_BYTES, RTSP_TRACKS

CAMERA = b"""v=0
o=- 1 1 IN IP4 192.168.1.20
c=IN IP4 0.0.0.0
a=control:rtsp://192.168.1.20/live/
m=video 0 RTP/AVP 96
b=AS:4096
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1; profile-level-id=4D0029;sprop-parameter-sets=Z00AKZpkA8ARPy4C3AQEBQ==,aO48gA
a=control:trackID=1
m=audio 0 RTP/AVP 0
a=control:trackID=2
"""


def test_a_camera() -> None:
    for text in (CAMERA, CAMERA.replace(b"\n", b"\r\n"), CAMERA.replace(b"\n", b"\r")):
        found = parse_description(text)
        assert found.control == "rtsp://192.168.1.20/live/"
        assert [(each.kind, each.control) for each in found.tracks] == [("video", "trackID=1"), ("audio", "trackID=2")]
        track = playable_track(found)
        assert track is not None
        assert (track.codec, track.clock_rate, track.payload_type) == ("H264", 90_000, 96)
        assert track.parameter_sets.startswith(b"\0\0\0\1\x67\x4d")
        assert track.parameter_sets.endswith(b"\0\0\0\1\x68\xee\x3c\x80")


def test_parameter_sets_of_h265_come_in_their_order() -> None:
    text = b"m=video 0 RTP/AVP 98\na=rtpmap:98 h265/90000\na=fmtp:98 sprop-pps=RAE=;sprop-sps=QgE=;sprop-vps=QAE="
    track = playable_track(parse_description(text))
    assert track is not None
    assert track.parameter_sets == b"\0\0\0\1\x40\1\0\0\0\1\x42\1\0\0\0\1\x44\1"


@pytest.mark.parametrize("sets", [b"!!!!", b"%%,=", b"A" * 100_000])
def test_parameter_sets_that_are_none_are_left_out(sets: bytes) -> None:
    text = b"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 sprop-parameter-sets=" + sets
    assert parse_description(text).tracks[0].parameter_sets == b""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"H264", b"MP4V-ES"),
        (b"H264", b"AV1"),
        (b"RTP/AVP 96", b"RTP/SAVP 96"),
        (b"RTP/AVP 96", b"RTP/AVP 26"),
        (b"packetization-mode=1", b"packetization-mode=2"),
        (b"H264/90000\na=fmtp:96 ", b"H265/90000\na=fmtp:96 sprop-max-don-diff=1;"),
        (b"H264/90000\na=fmtp:96 ", b"H265/90000\na=fmtp:96 tx-mode=MRST;"),
        (b"m=video", b"m=application"),
    ],
)
def test_what_is_not_played(before: bytes, after: bytes) -> None:
    assert before in CAMERA
    assert playable_track(parse_description(CAMERA.replace(before, after))) is None


def test_bounds() -> None:
    with pytest.raises(RtspError, match="tracks"):
        parse_description(b"m=video 0 RTP/AVP 96\n" * (RTSP_TRACKS + 1))
    with pytest.raises(RtspError, match="bytes"):
        parse_description(b"a" * (RTSP_BODY_BYTES + 1))


LINES = [
    b"m=",
    b"m=video 0 RTP/AVP 96",
    b"a=rtpmap:96 H264",
    b"a=fmtp:96 ;=;a=",
    b"a=control:",
    b"a=rtpmap:96 H265/9",
]


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(LINES)), max_size=30))
def test_any_text_is_read_or_refused(lines: list[bytes]) -> None:
    try:
        found = parse_description(b"\n".join(lines))
    except FrameSourceError:
        return
    playable_track(found)
    assert all(isinstance(each.parameter_sets, bytes) for each in found.tracks)
