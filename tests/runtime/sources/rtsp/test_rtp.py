"""Headers of RTP; the order of packets, and exactly how many are lost."""

from __future__ import annotations

import itertools
import random

import pytest
from camera_servers.rtp_packets import rtp
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.sources.rtsp.rtp import RtpPacket, Sequence, Timestamps, parse_rtp

WAIT = 1000


def packet(number: int, at: int = 0) -> RtpPacket:
    return RtpPacket(96, False, number % 65_536, 0, 7, b"", at)


def read(sequence: Sequence, numbers: list[int]) -> list[tuple[int, int]]:
    return [(each.number, lost) for number in numbers for each, lost in sequence.push(packet(number))]


class TestHeader:
    def test_of_a_plain_packet(self) -> None:
        found = parse_rtp(rtp(b"xyz", 65_535, 1 << 31, marker=True), 5)
        assert found == RtpPacket(96, True, 65_535, 1 << 31, 0x1234ABCD, b"xyz", 5)

    def test_with_sources_an_extension_and_padding(self) -> None:
        plain = bytearray(rtp(b"", 1, 2))
        plain[0] |= 0x20 | 0x10 | 2
        data = bytes(plain) + bytes(8) + b"\xbe\xde\0\1" + b"ext." + b"payload" + b"\0\0\3"
        found = parse_rtp(data)
        assert found is not None
        assert found.payload == b"payload"

    @pytest.mark.parametrize(
        "data", [b"", bytes(11), bytes(12), b"\xa0" + bytes(11), b"\x9f" + bytes(20), b"\x8f" + bytes(30)]
    )
    def test_of_what_is_none(self, data: bytes) -> None:
        assert parse_rtp(data) is None

    @given(st.binary(max_size=60))
    def test_of_any_bytes(self, data: bytes) -> None:
        found = parse_rtp(b"\x80" + data)
        assert found is None or found.payload in data
        parse_rtp(data)


class TestOrder:
    def test_numbers_wrap_around(self) -> None:
        sequence = Sequence(most=0, wait_ns=0)
        assert read(sequence, [65_534, 65_535, 0, 1, 4]) == [(65_534, 0), (65_535, 0), (0, 0), (1, 0), (4, 2)]
        assert (sequence.received, sequence.lost, sequence.highest) == (5, 2, 65_540)

    def test_an_overtaken_packet_is_waited_for(self) -> None:
        sequence = Sequence(most=10, wait_ns=WAIT)
        assert read(sequence, [1, 3, 4]) == [(1, 0)]
        assert read(sequence, [2]) == [(2, 0), (3, 0), (4, 0)]
        assert sequence.lost == 0

    def test_but_not_longer_than_its_time(self) -> None:
        sequence = Sequence(most=10, wait_ns=WAIT)
        read(sequence, [1])
        sequence.push(packet(3, at=100))
        sequence.push(packet(4, at=900))
        sequence.push(packet(6, at=950))
        assert sequence.expires_ns == 100 + WAIT
        assert sequence.expired(99 + WAIT) == []
        found = sequence.expired(100 + WAIT)
        assert [(each.number, lost) for each, lost in found] == [(3, 1), (4, 0)]
        assert sequence.expires_ns == 950 + WAIT

    def test_and_not_for_more_packets_than_the_bound(self) -> None:
        sequence = Sequence(most=3, wait_ns=WAIT)
        assert read(sequence, [1, 3, 4, 5]) == [(1, 0)]
        assert read(sequence, [6]) == [(3, 1), (4, 0), (5, 0), (6, 0)]

    def test_duplicates_and_late_packets_are_left_out(self) -> None:
        sequence = Sequence(most=0, wait_ns=0)
        assert read(sequence, [1, 1, 3, 2, 3, 4]) == [(1, 0), (3, 1), (4, 0)]
        assert (sequence.received, sequence.lost) == (3, 1)

    def test_a_sender_that_begins_again_is_followed(self) -> None:
        sequence = Sequence(most=5, wait_ns=WAIT)
        read(sequence, [1, 2, 4])
        assert read(sequence, [30_000]) == []
        assert read(sequence, [30_001, 30_002]) == [(4, 1), (30_001, 1), (30_002, 0)]
        assert read(Sequence(most=0, wait_ns=0), [1, 30_000, 2, 40_000, 3]) == [(1, 0), (2, 0), (3, 0)]


@given(st.integers(0, 65_535), st.integers(0, 10_000), st.sets(st.integers(1, 198)), st.integers(0, 8))
def test_what_is_lost_is_counted_exactly(first: int, seed: int, missing: set[int], distance: int) -> None:
    """Packets overtake each other by less than the bound; those between the first and the last may be lost."""
    sent = [number for number in range(200) if number not in missing]
    chosen = random.Random(seed)
    middle = sorted(sent[1:-1], key=lambda number: number + chosen.uniform(0, distance))
    sequence = Sequence(most=20, wait_ns=WAIT)
    found = [each for number in (0, *middle, 199) for each in sequence.push(packet(first + number))]
    found += sequence.expired(2 * WAIT)
    assert [each.number for each, _ in found] == [(first + number) % 65_536 for number in sent]
    gaps = [after - before - 1 for before, after in itertools.pairwise(sent)]
    assert [lost for _, lost in found] == [0, *gaps]
    assert (sequence.lost, sequence.received) == (len(missing), len(sent))


@given(st.lists(st.integers(0, 65_535), max_size=60), st.integers(0, 5))
def test_any_numbers_are_read(numbers: list[int], most: int) -> None:
    sequence = Sequence(most=most, wait_ns=WAIT)
    found = read(sequence, numbers)
    assert len(found) <= len(numbers)
    assert sequence.expires_ns is None or most


def test_timestamps_wrap_around_and_come_in_any_order() -> None:
    timestamps = Timestamps()
    found = [timestamps.unwrapped(each % (1 << 32)) for each in (-6000, 0, -3000, 3000)]
    assert [each - found[0] for each in found] == [0, 6000, 3000, 9000]
    assert timestamps.near(((1 << 32) - 6000) % (1 << 32)) == found[0]
