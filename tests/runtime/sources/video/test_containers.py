"""What is taken for a video, and how many samples an MP4 may declare."""

from __future__ import annotations

import struct
from functools import reduce
from pathlib import Path

import pytest

from vitedge.runtime.sources.video import containers
from vitedge.runtime.sources.video.containers import ContainerError, check_container
from vitedge.safety.limits import VIDEO_SAMPLES

pytest.importorskip("av")

import clips

CODECS = {"mp4": "mp4v", "mov": "mp4v", "m4v": "mp4v", "3gp": "mp4v", "avi": "MJPG", "mkv": "MJPG", "webm": "VP80"} | {
    "ts": "MPG2", "m2ts": "MPG2", "mpg": "MPG1", "vob": "MPG2", "flv": "FLV1", "wmv": "WMV2", "ivf": "VP80"
} | {"mjpeg": "MJPG", "y4m": "I420"}  # fmt: skip
"""A codec that OpenCV can write for each kind of container."""


def check(path: Path) -> None:
    with path.open("rb") as stream:
        check_container(stream)


@pytest.mark.parametrize("suffix", CODECS)
def test_usual_containers_are_videos(suffix: str, tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / f"clip.{suffix}", 20, codec=CODECS[suffix])
    check(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check(path)


def test_a_transport_stream_may_begin_within_a_packet(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.ts", 20, codec="MPG2")
    path.write_bytes(path.read_bytes()[100:])
    check(path)


@pytest.mark.parametrize("suffix", ["h264", "hevc"])
def test_streams_without_a_container_are_videos(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(b"\0\0\0\1\x67" + bytes(100))
    check(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no video",
        b"#EXTM3U\n#EXTINF:1,\na.ts\n",
        b"ffconcat version 1.0\nfile a.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        b"<?xml version='1.0'?><MPD>",
        b"%!PS-Adobe-3.0",
        b"\x89PNG\r\n\x1a\n",
        b"G" + bytes(2000),
        b"\x7fELF",
    ],
)
def test_what_does_not_begin_like_a_video_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ContainerError, match="does not begin like a video"):
        check(path)


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">L", len(content) + 8) + kind + content


def track(count: int, *, ticks: int = 512, sizes: bytes | None = None) -> bytes:
    """A track with a uniform size of samples, or another box that counts them."""
    times = box(b"stts", struct.pack(">LLLL", 0, 1, count, ticks))
    sizes = box(b"stsz", struct.pack(">LLL", 0, 1, count)) if sizes is None else sizes
    return box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", times + sizes))))


def fragment(count: int) -> bytes:
    return box(b"moof", box(b"traf", box(b"trun", struct.pack(">LL", 0, count))))


HIDDEN = box(b"stsz", struct.pack(">LLL", 0, 1, 1 << 24))
DECLARING = {
    "a track": box(b"moov", track(1 << 24)),
    "tracks together": box(b"moov", track(400) * 8),
    "compact sizes": box(b"moov", track(1, sizes=box(b"stz2", struct.pack(">LLL", 0, 4, 1 << 30)))),
    "a fragment": box(b"moov", track(1)) + fragment(1 << 31),
    "a fragment behind the media": box(b"moov", track(1)) + box(b"mdat", bytes(99)) + fragment(1 << 31),
    "among user data": box(b"moov", track(1) + box(b"udta", HIDDEN)),
    "among descriptions of codecs": box(b"moov", track(1, sizes=box(b"stsd", bytes(99) + HIDDEN))),
    "outside of all": box(b"moov", track(1)) + HIDDEN,
    "in a box of unknown size": box(b"moov", track(1)) + b"\0\0\0\0abcd" + HIDDEN,
    "in a box of 64 bits": b"\0\0\0\1moov" + struct.pack(">Q", 500) + track(1 << 24),
    "in a box that says too much": b"\0\x10\0\0moov" + track(1 << 24),
    "deep": reduce(lambda inside, _: box(b"moov", inside), range(40), track(1 << 24)),
    "even audio in a small file": box(b"moov", track(1 << 30, ticks=1)),
}


@pytest.mark.parametrize("name", DECLARING)
def test_an_mp4_declares_no_more_samples_than_it_can_hold(name: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(box(b"ftyp", b"isom") + DECLARING[name])
    with pytest.raises(ContainerError, match="it declares"):
        check(path)


def test_a_compressed_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mov"
    path.write_bytes(box(b"moov", box(b"cmov", box(b"dcom", b"zlib"))))
    with pytest.raises(ContainerError, match="compressed"):
        check(path)


def test_boxes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "VIDEO_BOXES", 100)
    path = tmp_path / "clip.mp4"
    path.write_bytes(box(b"free") * 101)
    with pytest.raises(ContainerError, match="more than 100 boxes"):
        check(path)


def test_an_hour_of_uncompressed_audio_may_have_as_many_samples(tmp_path: Path) -> None:
    """FFmpeg counts their chunks. A video with as many would be another thing."""
    path = tmp_path / "clip.mov"
    samples = VIDEO_SAMPLES + 1
    with path.open("wb") as stream:
        stream.write(box(b"moov", track(samples, ticks=1)))
        stream.truncate(2 * samples)
    check(path)
    with path.open("r+b") as stream:
        stream.write(box(b"moov", track(samples)))
    with pytest.raises(ContainerError, match=f"{VIDEO_SAMPLES} are the most"):
        check(path)


def test_tables_and_media_may_hold_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    tables = b"".join(box(kind, HIDDEN + b"cmov") for kind in (b"stco", b"stsc", b"ctts", b"co64", b"stss"))
    path.write_bytes(box(b"ftyp", b"isom") + box(b"moov", track(1, sizes=tables)) + box(b"mdat", HIDDEN + b"cmov"))
    check(path)


def test_what_is_searched_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_CHUNK", 100)
    for before in range(150):
        path = tmp_path / "clip.mp4"
        path.write_bytes(box(b"ftyp", b"isom") + box(b"udta", bytes(before) + HIDDEN))
        with pytest.raises(ContainerError, match="it declares"):
            check(path)
