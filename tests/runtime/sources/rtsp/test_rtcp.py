"""Reports of the sender, and ours."""

from __future__ import annotations

import pytest
from camera_servers.rtp_packets import SOURCE, goodbye, sender_report
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.sources.rtsp.rtcp import Goodbye, Reception, SenderReport, parse_rtcp
from vitedge.runtime.sources.rtsp.rtp import RtpPacket, Sequence

WALL = 1_700_000_000_250_000_000
SECOND = 1_000_000_000


def test_a_report_and_a_farewell_in_one_packet() -> None:
    report, farewell = parse_rtcp(sender_report(90_000, WALL) + goodbye(source=9))
    assert isinstance(report, SenderReport)
    assert (report.source, report.timestamp) == (SOURCE, 90_000)
    assert report.wall_ns == pytest.approx(WALL, abs=2)
    assert farewell == Goodbye(9)


@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_are_read(data: bytes, cut: int) -> None:
    parse_rtcp(data)
    parse_rtcp(sender_report(1, WALL)[:cut])
    for said in parse_rtcp(b"\x81\xcb" + data):
        assert 0 <= said.source < 1 << 32


def test_our_report_says_what_was_lost() -> None:
    sequence = Sequence(most=0, wait_ns=0)
    reception = Reception(sequence, 90_000)
    for place, number in enumerate((65_534, 65_535, 0, 3)):
        packet = RtpPacket(96, False, number, 3_000 * place, 7, b"", place * SECOND // 30)
        reception.arrived(packet)
        sequence.push(packet)
    (said,) = parse_rtcp(sender_report(0, WALL))
    assert isinstance(said, SenderReport)
    reception.heard(said, 0)
    report = reception.report(SOURCE, SECOND)
    assert report[:4] == b"\x81\xc9\0\7"
    assert report[8:12] == SOURCE.to_bytes(4, "big")
    share, lost, highest = report[12], int.from_bytes(report[13:16], "big"), int.from_bytes(report[16:20], "big")
    assert (share, lost, highest) == (256 * 2 // 6, 2, 65_536 + 3)
    assert int.from_bytes(report[20:24], "big") <= 1, "jitter in ticks"
    assert int.from_bytes(report[24:28], "big") == said.middle
    assert int.from_bytes(report[28:32], "big") == 65_536
    assert (len(report) % 4, report[33], b"vitedge" in report) == (0, 202, True)
    assert reception.report(SOURCE, SECOND)[12] == 0, "nothing was lost since then"
