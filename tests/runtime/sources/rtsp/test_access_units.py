"""Pictures of H.264 and H.265 from RTP packets: whole, in the odd ways of cameras, and with packets lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

import pytest
from camera_servers.rtp_packets import Codec, Packetizer, rtp
from hypothesis import given
from hypothesis import strategies as st

from vitedge.runtime.sources.rtsp import access_units
from vitedge.runtime.sources.rtsp.access_units import AccessUnit, Assembler
from vitedge.runtime.sources.rtsp.depacketizers import DEPACKETIZERS
from vitedge.runtime.sources.rtsp.rtp import Sequence as Order
from vitedge.runtime.sources.rtsp.rtp import parse_rtp
from vitedge.runtime.sources.rtsp.sdp import START_CODE

BODIES = st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=400)), min_size=1, max_size=5)
CODECS: tuple[Codec, ...] = get_args(Codec)
TICKS = 3_000
BOTH = pytest.mark.parametrize("codec", CODECS)


def nal(codec: Codec, kind: int, body: bytes, *, first: bool = True) -> bytes:
    """Return a NAL unit whose body holds no start code."""
    head = bytes((0x60 | kind,)) if codec == "H264" else bytes((kind << 1, 1))
    return head + bytes((0x80 if first else 0x40,)) + body.replace(b"\0", b"\1")


def picture(codec: Codec, seed: int, *, key: bool = False, slices: int = 1, size: int = 300) -> list[bytes]:
    """Return the NAL units of a picture; a key picture has parameter sets."""
    chosen = random.Random(seed)
    kinds = {"H264": (5, 1, [7, 8]), "H265": (19, 1, [32, 33, 34])}[codec]
    sets = [nal(codec, kind, chosen.randbytes(20)) for kind in kinds[2]] if key else []
    kind = kinds[0] if key else kinds[1]
    return sets + [nal(codec, kind, chosen.randbytes(size), first=not each) for each in range(slices)]


def joined(units: Sequence[bytes]) -> bytes:
    return b"".join(START_CODE + each for each in units)


def sent(packetizer: Packetizer, pictures: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return the packets of pictures that follow each other."""
    timed = ((joined(units), place * TICKS) for place, units in enumerate(pictures))
    return [data for unit, timestamp in timed for data in packetizer.packets(unit, timestamp)]


def assembled(codec: Codec, packets: Sequence[bytes], *, trusts_markers: bool = True) -> list[AccessUnit]:
    """Return the access units of packets that come in order, one every nanosecond; gaps in their numbers are losses.

    Markers are trusted as if some have proved right, or not.
    """
    order, assembler = Order(most=0, wait_ns=0), Assembler(DEPACKETIZERS[codec]())
    if trusts_markers:
        assembler._proof = access_units.ENOUGH
    parsed = (parse_rtp(data, place) for place, data in enumerate(packets))
    ready = (each for packet in parsed if packet is not None for each in order.push(packet))
    return [unit for packet, lost in ready for unit in assembler.push(packet, lost)]


@given(
    st.sampled_from(CODECS),
    st.lists(
        st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=400)), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.integers(20, 300),
    st.booleans(),
)
def test_splitting_into_packets_and_back_changes_nothing(
    codec: Codec, bodies: list[list[tuple[bool, bytes]]], size: int, aggregates: bool
) -> None:
    """Of any pictures, with other NAL units before and behind their slices."""
    pictures = [
        [
            nal(codec, 1 if is_slice or not place else 6, body, first=not place)
            for place, (is_slice, body) in enumerate(each)
        ]
        for each in bodies
    ]
    packetizer = Packetizer(codec, size=size, aggregates=aggregates)
    packets = [
        data for place, units in enumerate(pictures) for data in packetizer.packets(joined(units), place * TICKS)
    ]
    found = assembled(codec, packets)
    assert [unit.data for unit in found] == [joined(units) for units in pictures]
    assert [unit.timestamp for unit in found] == [place * TICKS for place in range(len(pictures))]
    assert not any(unit.damaged for unit in found)


@BOTH
class TestTheEndOfAPicture:
    def test_is_known_when_its_marker_comes(self, codec: Codec) -> None:
        packets = Packetizer(codec, size=100).packets(joined(picture(codec, 1)), 0)
        assert len(packets) > 2
        assert assembled(codec, packets[:-1]) == []
        (unit,) = assembled(codec, packets)
        assert unit.arrived_ns == len(packets) - 1

    def test_is_where_the_next_begins_without_markers(self, codec: Codec) -> None:
        packetizer = Packetizer(codec, size=100, markers="none")
        packets = [packetizer.packets(joined(picture(codec, seed)), seed * TICKS) for seed in range(3)]
        found = assembled(codec, [each for packet in packets for each in packet], trusts_markers=False)
        assert [unit.data for unit in found] == [joined(picture(codec, seed)) for seed in range(2)]
        assert found[0].arrived_ns == len(packets[0]) - 1, "its age counts from its own last packet"

    def test_is_not_believed_to_be_at_a_marker_before_one_has_proved_right(self, codec: Codec) -> None:
        pictures = [picture(codec, seed, slices=2) for seed in range(3)]
        packets = sent(Packetizer(codec, size=100), pictures)
        last = assembled(codec, packets[: len(packets) // 3], trusts_markers=False)
        assert last == []
        found = assembled(codec, packets, trusts_markers=False)
        assert [unit.data for unit in found] == [joined(units) for units in pictures]
        assert found[0].arrived_ns == len(packets) // 3 - 1

    @pytest.mark.parametrize("size", [100, 1000])
    def test_is_never_believed_to_be_at_markers_of_parts(self, codec: Codec, size: int) -> None:
        pictures = [picture(codec, seed, key=not seed, slices=3) for seed in range(5)]
        packets = sent(Packetizer(codec, markers="every", size=size), pictures)
        found = assembled(codec, packets, trusts_markers=False)
        assert [unit.data for unit in found] == [joined(units) for units in pictures[:-1]]
        assert not any(unit.damaged for unit in found)

    def test_is_at_a_marker_behind_which_nothing_comes(self, codec: Codec) -> None:
        assembler = Assembler(DEPACKETIZERS[codec]())
        packets = [each for each in map(parse_rtp, sent(Packetizer(codec, size=100), [picture(codec, 1)])) if each]
        for packet in packets[:-1]:
            assert assembler.push(packet, 0) == []
            assert (assembler.ends_ns, assembler.after_silence()) == (None, [])
        assert assembler.push(packets[-1], 0) == []
        assert assembler.ends_ns == access_units.SILENCE_NS
        assert [unit.data for unit in assembler.after_silence()] == [joined(picture(codec, 1))]
        assert (assembler.ends_ns, assembler.after_silence()) == (None, [])

    def test_is_proved_by_small_pictures_too(self, codec: Codec) -> None:
        pictures = [picture(codec, seed) for seed in range(access_units.ENOUGH + 2)]
        found = assembled(codec, sent(Packetizer(codec), pictures), trusts_markers=False)
        assert [unit.data for unit in found] == [joined(units) for units in pictures]

    @pytest.mark.parametrize("size", [100, 1000])
    def test_is_not_believed_any_more_where_a_part_comes_behind_a_marker(self, codec: Codec, size: int) -> None:
        packetizer = Packetizer(codec, markers="every", size=size)
        pictures = [picture(codec, seed, key=not seed, slices=3) for seed in range(5)]
        found = assembled(codec, sent(packetizer, pictures))
        assert [unit.data for unit in found[-3:]] == [joined(units) for units in pictures[1:-1]]
        assert [unit.damaged for unit in found[1:]] == [True, False, False, False]

    def test_is_not_at_the_marker_of_parameter_sets(self, codec: Codec) -> None:
        units = picture(codec, 1, key=True)
        packets = [rtp(each, place, 0, marker=True) for place, each in enumerate(units)]
        assert [unit.data for unit in assembled(codec, packets)] == [joined(units)]

    def test_is_at_every_marker_where_all_timestamps_are_the_same(self, codec: Codec) -> None:
        packetizer = Packetizer(codec, size=100)
        packets = [each for seed in range(4) for each in packetizer.packets(joined(picture(codec, seed)), 7)]
        assert [unit.data for unit in assembled(codec, packets)] == [joined(picture(codec, seed)) for seed in range(4)]

    def test_counts_where_the_last_fragment_is_not_marked_as_such(self, codec: Codec) -> None:
        packets = Packetizer(codec, size=100).packets(joined(picture(codec, 1)), 0)
        flags = 13 if codec == "H264" else 14
        last = bytearray(packets[-1])
        last[flags] &= ~0x40
        assert [unit.data for unit in assembled(codec, [*packets[:-1], bytes(last)])] == [joined(picture(codec, 1))]


@BOTH
class TestLoss:
    def test_of_any_packet_marks_its_picture_or_the_next(self, codec: Codec) -> None:
        packetizer = Packetizer(codec, size=100)
        pictures = [picture(codec, seed, slices=2) for seed in range(4)]
        packets = [packetizer.packets(joined(units), seed * TICKS) for seed, units in enumerate(pictures)]
        everything = [each for packet in packets for each in packet]
        for lost in range(len(packets[0]), len(packets[0]) + len(packets[1])):
            found = assembled(codec, everything[:lost] + everything[lost + 1 :])
            whole = [unit for unit in found if not unit.damaged]
            assert {unit.data for unit in whole} < {joined(units) for units in pictures}
            assert any(unit.damaged and unit.timestamp in (TICKS, 2 * TICKS) for unit in found)
            assert found[0].data == joined(pictures[0])
            assert found[-1].data == joined(pictures[3])
            assert not found[-1].damaged

    def test_of_a_whole_picture_marks_the_next(self, codec: Codec) -> None:
        packetizer = Packetizer(codec)
        packets = [packetizer.packets(joined(picture(codec, seed)), seed * TICKS) for seed in range(4)]
        found = assembled(codec, [*packets[0], *packets[2], *packets[3]])
        assert [unit.damaged for unit in found] == [False, True, False]

    def test_of_an_end_marks_both_pictures(self, codec: Codec) -> None:
        packetizer = Packetizer(codec, size=100)
        packets = [packetizer.packets(joined(picture(codec, seed)), seed * TICKS) for seed in range(3)]
        found = assembled(codec, [*packets[0][:-1], *packets[1], *packets[2]])
        assert [unit.damaged for unit in found] == [True, True, False]


@BOTH
def test_a_key_picture_is_known(codec: Codec) -> None:
    recovery = (
        nal(codec, {"H264": 6, "H265": 39}[codec], b"")[: {"H264": 1, "H265": 2}[codec]]
        + b"\x01\x01\xff\x06\x01\xc4\x80"
    )
    pictures = [picture(codec, 1), picture(codec, 2, key=True), [recovery, *picture(codec, 3)]]
    packetizer = Packetizer(codec)
    assert [unit.is_key for unit in assembled(codec, sent(packetizer, pictures))] == [False, True, True]


@BOTH
@pytest.mark.parametrize("fragments", [True, False])
def test_a_picture_that_never_ends_is_given_up(codec: Codec, fragments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_units, "ACCESS_UNIT_BYTES", 10_000)
    endless = picture(codec, 1, size=30_000) if fragments else picture(codec, 1, slices=100)
    packetizer = Packetizer(codec, size=1_000)
    packets = [*packetizer.packets(joined(endless), 0), *packetizer.packets(joined(picture(codec, 2)), TICKS)]
    packets += packetizer.packets(joined(picture(codec, 3)), 2 * TICKS)
    found = assembled(codec, packets)
    assert all(len(unit.data) <= 10_000 for unit in found)
    assert found[0].damaged
    assert (found[-1].data, found[-1].damaged) == (joined(picture(codec, 3)), False)


@BOTH
def test_fragments_without_an_end_are_not_kept(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_units, "ACCESS_UNIT_BYTES", 10_000)
    depacketizer = DEPACKETIZERS[codec]()
    assembler = Assembler(depacketizer)
    for data in sent(Packetizer(codec, size=1_000), [picture(codec, 1, size=30_000)])[:-1]:
        packet = parse_rtp(data)
        assert packet is not None
        assembler.push(packet, 0)
        assert depacketizer.pending <= 10_000


@given(
    st.sampled_from(CODECS),
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=30),
    st.sampled_from(["any", "fragment", "aggregate"]),
)
def test_any_payload_is_read_or_left_out(
    codec: Codec, packets: list[tuple[bytes, int, int, bool]], kind: Literal["any", "fragment", "aggregate"]
) -> None:
    heads = {
        ("H264", "fragment"): b"\x7c",
        ("H264", "aggregate"): b"\x78",
        ("H265", "fragment"): b"\x62\x01",
        ("H265", "aggregate"): b"\x60\x01",
    }
    head, number = heads.get((codec, kind), b""), 0
    found = []
    for payload, gap, timestamp, marker in packets:
        number += 1 + gap
        found.append(rtp(head + payload, number, timestamp, marker=marker))
    for unit in assembled(codec, found):
        assert unit.data.startswith(START_CODE)
