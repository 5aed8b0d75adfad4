"""Video files: whole, cut off and damaged, of every kind; and files that are no videos, or name other files."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video import decoder, tracks
from vitedge.runtime.sources.video import file as video_file
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.file import open_video
from vitedge.runtime.sources.video.packets import ContainerPackets
from vitedge.safety.escape import terminal

av = pytest.importorskip("av")

import clips  # noqa: E402 - needs PyAV

pytestmark = pytest.mark.timeout(120)

AWKWARD_NAMES = [
    *("12:30.avi", "clip%d.avi", "clip%03d.avi", "100%.avi", "-dash.avi", "a b.avi", "a#b?c.avi", "a*[1].avi"),
    *(
        "'quoted\".avi",
        "line\nbreak.avi",
        "\x1b[2J.avi",
        "été—日本.avi",
        "clip\udcff.avi",
        "http:x.avi",
        "concat:x.avi",
    ),
    *("file:x.avi", "7", "noext", "x|y.avi", "\\back.avi"),
]
"""Names that shells, URLs or FFmpeg read in ways of their own."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "numbered.avi", 60)


def write(
    path: Path,
    pictures: list[Any],
    codec: str,
    pix_fmt: str,
    *,
    size: tuple[int, int] = (128, 96),
    rate: int = 25,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    audio_seconds: float = 0,
) -> Path:
    """Write ``H×W×3`` BGR pictures, or ``VideoFrame``s, as a video; with silence if it is asked for."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        sound = container.add_stream("aac", rate=8000) if audio_seconds else None
        for picture in pictures:
            frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, "bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for at in range(0, int(audio_seconds * 8000), 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, at
            container.mux(sound.encode(silence))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def numbered(count: int, *, height: int = 96, width: int = 128) -> list[np.ndarray]:
    return [clips.numbered_frame(number, height=height, width=width) for number in range(count)]


class TestWhole:
    def test_frames_come_in_order_with_their_times(self, clip: Path) -> None:
        before_ns, before = time.monotonic_ns(), time.time()
        with open_source(str(clip)) as source:
            assert (source.live, source.fps, source.length) == (False, clips.FPS, 60)
            frames = list(source)
        assert [frame.index for frame in frames] == list(range(60))
        assert [clips.number_of(frame.image) for frame in frames] == list(range(60))
        assert {(frame.order, frame.age_basis, frame.backlog, frame.corrupt) for frame in frames} == {
            ("BGR", "arrival", False, False)
        }
        times = [frame.captured_ns for frame in frames]
        assert times == sorted(times)
        assert before_ns <= times[0] <= times[-1] <= time.monotonic_ns()
        assert before <= frames[0].captured_at <= frames[-1].captured_at <= time.time()
        assert source.notices == ()

    def test_frames_do_not_share_memory(self, clip: Path) -> None:
        with open_source(clip) as source:
            first, second = list(source)[:2]
        assert not np.shares_memory(first.image, second.image)

    def test_a_closed_source_ends_without_complaint(self, clip: Path) -> None:
        source = open_source(clip)
        frames = iter(source)
        next(frames)
        source.close()
        source.close()
        assert list(frames) == []
        assert source.notices == ()

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_any_name_can_be_read(self, name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / name).write_bytes(clip.read_bytes())
        monkeypatch.chdir(tmp_path)
        for path in (name, Path(name), tmp_path / name):
            with open_video(path) as opened:
                assert len(list(opened)) == 60

    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    def test_frames_carry_their_presentation_times(self, suffix: str, tmp_path: Path) -> None:
        codec = "mp4v" if suffix == ".mp4" else "MJPG"
        path = clips.write_clip(tmp_path / f"even{suffix}", 5, fps=10, codec=codec)
        with open_video(path) as source:
            assert [frame.pts for frame in source] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    def test_a_varying_frame_rate_is_told_by_the_presentation_times(self, tmp_path: Path) -> None:
        path = clips.write_clip(tmp_path / "varying.mp4", 5, codec="mp4v")
        clips.with_durations(path, [0.05, 0.05, 1, 0.5, 2])
        with open_video(path) as source:
            assert [frame.pts for frame in source] == pytest.approx([0.0, 0.05, 0.1, 1.1, 1.6])
        assert source.notices == ()

    def test_a_stream_without_a_container_has_no_times_and_no_rate(self, tmp_path: Path) -> None:
        """FFmpeg would say 25 frames per second."""
        path = write(tmp_path / "bare.h264", numbered(5), "libx264", "yuv420p")
        with open_video(path) as source:
            assert (source.fps, source.length) == (None, None)
            assert [frame.pts for frame in source] == [None] * 5

    def test_a_rate_that_is_a_clock_is_unknown(self, tmp_path: Path) -> None:
        path = write(tmp_path / "clock.mkv", numbered(3), "ffv1", "yuv420p", rate=90000)
        with open_video(path) as source:
            assert source.fps is None
            assert len(list(source)) == 3

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
    def test_sound_that_is_longer_than_the_picture_does_not_make_it_cut_off(self, suffix: str, tmp_path: Path) -> None:
        path = write(tmp_path / f"sound{suffix}", numbered(10), "mpeg4", "yuv420p", audio_seconds=4)
        with open_video(path) as source:
            assert len(list(source)) == 10
        assert source.notices == ()

    def test_the_picture_on_a_cover_is_no_video(self, tmp_path: Path) -> None:
        path = tmp_path / "cover.mp4"
        with av.open(path, "w") as container:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 512, 512, "yuvj420p"
            cover.disposition = int(av.stream.Disposition.attached_pic.value)
            video = container.add_stream("mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
            large = np.zeros((512, 512, 3), dtype=np.uint8)
            container.mux(cover.encode(av.VideoFrame.from_ndarray(large, "bgr24").reformat(format="yuvj420p")))
            for picture in numbered(5):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
            container.mux(video.encode(None))
        with open_video(path) as source:
            assert [clips.number_of(frame.image) for frame in source] == list(range(5))
        assert source.notices == ()

    def test_of_several_tracks_the_one_that_is_read_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "two.mkv"
        sizes = ((64, 48), (128, 96))
        with av.open(path, "w") as container:
            streams = [container.add_stream("ffv1", rate=25) for _ in sizes]
            for stream, (width, height) in zip(streams, sizes, strict=True):
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number in range(3):
                for stream, (width, height) in zip(streams, sizes, strict=True):
                    picture = clips.numbered_frame(number, height=height, width=width)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        with open_video(path) as source:
            shapes = {frame.image.shape[:2] for frame in source}
        assert len(shapes) == 1
        height, width = shapes.pop()
        assert source.notices == (f"{path} has 2 video tracks; the one of {width}x{height} is read",)

    def test_a_size_that_changes_in_the_middle(self, tmp_path: Path) -> None:
        path = tmp_path / "change.ts"
        path.write_bytes(
            write(tmp_path / "a.ts", numbered(5), "libx264", "yuv420p").read_bytes()
            + write(
                tmp_path / "b.ts", numbered(5, height=192, width=256), "libx264", "yuv420p", size=(256, 192)
            ).read_bytes()
        )
        for planes in (False, True):
            with open_video(path, SourceOptions(planes=planes)) as source:
                frames = list(source)
            assert [frame.image.shape[:2] for frame in frames] == [(96, 128)] * 5 + [(192, 256)] * 5
            assert [clips.number_of(frame.image) for frame in frames] == [*range(5), *range(5)]


def test_frames_are_freed_without_a_search_for_cycles(clip: Path) -> None:
    """One of 4K that waits for such a search, after each of many reconnections, is memory that seems to leak."""
    gc.collect()
    gc.disable()
    try:
        with open_video(clip) as source:
            assert sum(1 for _ in source) == 60
        left = [each for each in gc.get_objects() if isinstance(each, av.VideoFrame) and each.width > 16]
    finally:
        gc.enable()
    assert left == []


class TestColours:
    """Pixels are FFmpeg's, as OpenCV gives them; planes become the same pixels."""

    FORMATS = (
        *(("ffv1", each) for each in ("yuv420p", "yuv422p", "yuv444p", "yuv411p", "yuv440p", "yuv410p")),
        *(("ffv1", each) for each in ("gray", "yuv420p10le", "bgra", "yuva420p", "gray16le", "rgb48le")),
        *(("rawvideo", each) for each in ("nv12", "nv21", "yuyv422", "bgr24")),
        *(("mjpeg", each) for each in ("yuvj420p", "yuvj422p", "yuvj444p")),
    )
    PLANAR = frozenset({"nv12", "nv21", "yuv411p", "yuv440p", "yuv410p"})

    @pytest.mark.parametrize("size", [(128, 96), (131, 97), (17, 1)], ids=["even", "odd", "one row"])
    @pytest.mark.parametrize(("codec", "pix_fmt"), FORMATS)
    def test_every_pixel_format(self, codec: str, pix_fmt: str, size: tuple[int, int], tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        width, height = size
        coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        picture = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        stored: Any = np.ascontiguousarray(picture)
        if codec != "mjpeg":
            stored = av.VideoFrame.from_ndarray(stored, "bgr24").reformat(format=pix_fmt)
        try:
            path = write(tmp_path / "clip.nut", [stored, stored], codec, pix_fmt, size=size)
        except av.FFmpegError:
            pytest.skip(f"FFmpeg writes no {codec} of {width}x{height} {pix_fmt}")
        with av.open(path) as container:
            decoded = list(container.decode(video=0))
        if pix_fmt in ("nv12", "nv21"):  # the same picture in planes has the same colours
            decoded = [each.reformat(format="yuv420p") for each in decoded]
        expected = [each.reformat(format="bgr24", interpolation="BICUBIC").to_ndarray() for each in decoded]
        with (
            Decoded(ContainerPackets(av.open(path), "exact", live=False)) as exact,
            Decoded(ContainerPackets(av.open(path), "lazy", live=False), options=SourceOptions(planes=True)) as lazy,
        ):
            for frame, planes, right in zip(exact, lazy, expected, strict=True):
                np.testing.assert_array_equal(frame.image, right)
                assert frame.image.flags.c_contiguous
                np.testing.assert_array_equal(planes.image, right)
                is_planar = pix_fmt.startswith("yuv") and pix_fmt[-1] == "p" and "a" not in pix_fmt
                assert isinstance(planes.pixels, np.ndarray) is not (is_planar or pix_fmt in self.PLANAR)


def test_planes_are_views_that_nobody_may_write_into(clip: Path) -> None:
    with open_video(clip, SourceOptions(planes=True)) as source:
        first = next(iter(source))
    for plane in (first.pixels.y, first.pixels.u, first.pixels.v):
        assert not plane.flags.owndata
        assert not plane.flags.writeable


def test_a_stream_follows_the_colours_that_it_states(tmp_path: Path) -> None:
    """The same pixels, stored by BT.709 in full range and by BT.601 in narrow range, come back alike."""
    bands = np.repeat(np.array([[200, 30, 40], [20, 180, 60], [30, 60, 220], [128] * 3], dtype=np.uint8), 32, axis=0)
    picture = np.ascontiguousarray(np.broadcast_to(bands[:, None], (128, 128, 3)))
    for matrix, sws, full in (("bt601", 5, False), ("bt709", 1, True), ("bt709", 1, False)):
        stored = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(
            format="yuv444p", dst_colorspace=sws, dst_color_range=2 if full else 1
        )
        tags = {"colorspace": sws, "color_range": 2 if full else 1} if matrix == "bt709" else {}
        path = write(tmp_path / "clip.mkv", [stored], "ffv1", "yuv444p", size=(128, 128), tags=tags)
        with open_video(path, SourceOptions(planes=True)) as source:
            (frame,) = source
        assert (frame.pixels.matrix, frame.pixels.full_range) == (matrix, full)
        assert np.abs(frame.image.astype(int) - picture).max() <= 3


def test_a_turned_and_mirrored_video_states_its_orientation(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", 3, codec="mp4v")
    one, zero = (1 << 16).to_bytes(4, "big", signed=True), bytes(4)
    minus = (-1 << 16).to_bytes(4, "big", signed=True)
    w = (1 << 30).to_bytes(4, "big")
    for orientation, matrix in (
        (1, (one, zero, zero, zero, one, zero)),
        (2, (minus, zero, zero, zero, one, zero)),
        (4, (one, zero, zero, zero, minus, zero)),
        (6, (zero, one, zero, minus, zero, zero)),
        (7, (zero, minus, zero, minus, zero, zero)),
    ):
        clips.with_matrix(path, b"".join((*matrix, zero, zero, w)))
        with open_video(path) as source:
            assert [frame.orientation for frame in source] == [orientation] * 3
            assert source.oriented == (3 if orientation > 1 else 0)
            assert source.notices == ()


class TestDamaged:
    def test_a_cut_off_video_gives_its_frames_and_a_notice(
        self, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cut = tmp_path / "cut\x1b[2J.avi"
        cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        with caplog.at_level(logging.WARNING, "vitedge"), open_video(cut) as source:
            frames = list(source)
        numbers = [clips.number_of(frame.image) for frame in frames if not frame.corrupt]
        assert numbers == list(range(len(numbers)))
        assert 10 < len(numbers) < 50
        assert len(frames) - len(numbers) <= 1, "only the last frame may be torn"
        assert source.notices[0] == f"{cut} is cut off: it ended after {len(frames)} of about 60 frames"
        assert caplog.messages == [terminal(notice) for notice in source.notices]

    @pytest.mark.parametrize(
        ("suffix", "codec", "noticed"),
        [(".mp4", "libx264", True), (".mkv", "libx264", True), (".flv", "flv", True), (".ts", "libx264", False)],
    )
    def test_each_format_cut_off(self, suffix: str, codec: str, noticed: bool, tmp_path: Path) -> None:
        """A transport stream does not say how long it is."""
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        whole = tmp_path / f"whole{suffix}"
        with av.open(whole, "w", options=options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for picture in numbered(100):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
            container.mux(stream.encode(None))
        with open_video(whole) as source:
            assert len(list(source)) == 100
        assert source.notices == ()
        cut = tmp_path / f"cut{suffix}"
        content = whole.read_bytes()
        cut.write_bytes(content[: len(content) * 6 // 10])
        with open_video(cut) as source:
            count = len(list(source))
        assert 0 < count < 100
        assert any("is cut off" in notice for notice in source.notices) is noticed

    def test_damage_in_the_middle_is_counted_and_the_rest_is_read(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 60, (96, 128, 3), dtype=np.uint8)
        pictures = [picture // 2 + noise for picture in numbered(60)]
        whole = write(tmp_path / "whole.mp4", pictures, "libx264", "yuv420p", options={"g": "10"})
        content = bytearray(whole.read_bytes())
        for place in range(len(content) // 2, len(content) // 2 + 60):
            content[place] ^= 0x5A
        path = tmp_path / "damaged.mp4"
        path.write_bytes(content)
        with open_video(path) as source:
            frames = list(source)
        assert len(frames) >= 55
        assert clips.number_of(frames[-1].image) == 59
        damaged = sum(frame.corrupt for frame in frames)
        lost = 60 - len(frames)
        assert damaged + lost > 0
        assert len(source.notices) == (damaged > 0) + (lost > 0)
        assert all("damaged" in notice or "not decodable" in notice for notice in source.notices)

    def test_a_torn_jpeg_is_damaged(self, tmp_path: Path) -> None:
        """FFmpeg's decoder fills the rest of the picture with something, and says nothing."""
        noise = np.random.default_rng(0).integers(0, 256, (192, 320, 3), dtype=np.uint8)
        path = write(tmp_path / "clip.avi", [noise] * 20, "mjpeg", "yuvj420p", size=(320, 192))
        content = bytearray(path.read_bytes())
        jpeg = content.index(b"\xff\xd8\xff", content.index(b"\xff\xd8\xff", len(content) // 2) + 3)
        end = content.index(b"\xff\xd9", jpeg)
        middle = (jpeg + end) // 2
        content[middle:end] = b"\xff\xd9".ljust(end - middle, b"\0")
        path.write_bytes(content)
        with open_video(path) as source:
            frames = list(source)
        assert len(frames) == 20
        assert sum(frame.corrupt for frame in frames) == 1
        assert source.notices == (f"{path}: 1 frame was damaged",)

    def test_a_video_without_a_whole_frame_is_an_error(self, clip: Path, tmp_path: Path) -> None:
        cut = tmp_path / "cut.avi"
        contents = clip.read_bytes()
        cut.write_bytes(contents[: contents.index(b"movi") + 100])
        with (
            pytest.raises(FrameSourceError, match=r"no frame that can be decoded|not a video") as raised,
            open_video(cut) as source,
        ):
            list(source)
        assert raised.value.cause == "no_video"

    def test_an_mp4_without_its_index_is_an_error(self, tmp_path: Path) -> None:
        whole = clips.write_clip(tmp_path / "whole.mp4", 30, codec="mp4v")
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[:-200])
        with pytest.raises(FrameSourceError, match="is not a video") as raised:
            open_video(cut)
        assert "truncated" in raised.value.fix

    @pytest.mark.parametrize(
        ("name", "length", "whole"),
        [
            ("numbered-720p.mp4", 180, 1.0),
            ("numbered-360p.mkv", 180, 1.0),
            ("bottle-detection.mp4", 1189, 1.0),
            ("car-detection.mp4", 377, 1.0),
            ("numbered-720p.mp4", 180, 0.3),
            ("numbered-360p.mkv", 180, 0.9),
            ("car-detection.mp4", 377, 0.95),
        ],
    )
    def test_real_clips_whole_and_cut_off(
        self, name: str, length: int, whole: float, shared_data: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        contents = (shared_data / "video" / name).read_bytes()
        path.write_bytes(contents[: int(whole * len(contents))])
        with open_video(path, SourceOptions(planes=True)) as source:
            frames = sum(1 for _ in source)
        assert source.length == length
        if whole == 1.0:
            assert (frames, source.notices) == (length, ())
        else:
            assert 0 < frames < length
            assert source.notices[0] == f"{path} is cut off: it ended after {frames} of about {length} frames"


class TestNoVideo:
    @pytest.mark.parametrize("contents", [b"", b"this is no video" * 100])
    def test_a_file_that_is_no_video(self, contents: bytes, tmp_path: Path) -> None:
        path = tmp_path / "notes.mp4"
        path.write_bytes(contents)
        with pytest.raises(FrameSourceError, match=rf"notes\.mp4 \({len(contents)} bytes\) is not a video"):
            open_source(path)

    def test_sound_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.mp4"
        with av.open(path, "w") as container:
            sound = container.add_stream("aac", rate=8000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
        with pytest.raises(FrameSourceError, match="has no video track; it holds audio") as raised:
            open_video(path)
        assert raised.value.cause == "no_video"

    def test_a_codec_without_a_decoder_is_named(self, tmp_path: Path) -> None:
        path = clips.write_clip(tmp_path / "clip.mp4", 3, codec="avc1")
        content = path.read_bytes()
        path.write_bytes(content.replace(b"avc1", b"zzz1"))
        with pytest.raises(FrameSourceError, match="zzz1 video, and zzz1 is not in this build of FFmpeg") as raised:
            open_video(path)
        assert raised.value.cause == "codec"
        assert "cut off" not in str(raised.value)

    def test_a_known_codec_without_a_decoder_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As AV1 in a build of FFmpeg without dav1d."""

        class Without:
            def __init__(self, container: Any) -> None:
                self.container = container

            @property
            def streams(self) -> Any:
                track = self.container.streams.video[0]

                class Track:
                    index, type, disposition, codec_context = track.index, "video", track.disposition, None

                only = Track()

                class Streams(list):
                    video = (only,)

                    def best(self, _: str) -> Any:
                        return only

                return Streams([only])

            def dumps_format(self) -> str:
                return self.container.dumps_format().replace("mpeg4", "av1")

            def close(self) -> None:
                self.container.close()

        path = clips.write_clip(tmp_path / "clip.mp4", 3, codec="mp4v")
        monkeypatch.setattr(video_file, "_opened", lambda _, name: (Without(av.open(name)), ""))
        with pytest.raises(FrameSourceError, match="AV1 is not in this build of FFmpeg"):
            open_video(path)

    @pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "sparse", "gone"])
    def test_what_is_no_regular_file_is_refused(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            path.write_bytes(b"\0\0\0\x18ftypisom")
            os.truncate(path, 100 << 30)
        with pytest.raises(FrameSourceError, match=r"clip\.mp4 cannot be read") as raised:
            open_video(path)
        assert raised.value.cause == ("not_found" if kind == "gone" else None)

    def test_frames_that_are_too_large_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clip.y4m").write_bytes(b"YUV4MPEG2 W12000 H12000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1000))
        with pytest.raises(FrameSourceError, match=r"clip\.y4m has frames of 12000x12000 pixels"):
            open_source(tmp_path / "clip.y4m")

    def test_frames_that_become_too_large_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "change.ts"
        small = write(tmp_path / "a.ts", numbered(5), "libx264", "yuv420p")
        large = write(tmp_path / "b.ts", numbered(5, height=192, width=256), "libx264", "yuv420p", size=(256, 192))
        path.write_bytes(small.read_bytes() + large.read_bytes())
        for module in (decoder, tracks):
            monkeypatch.setattr(module, "IMAGE_PIXELS", 128 * 96)
        with open_video(path) as source, pytest.raises(FrameSourceError, match=r"larger|has frames of"):
            list(source)

    def test_without_pyav(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "av", None)
        with pytest.raises(Exception, match=r"vitedge\[camera\]"):
            open_video(clip)


class Canary:
    """Counts who connects to it."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    server = Canary()
    yield server
    server.close()


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transport stream, which playlists and scripts can name."""
    return clips.write_clip(tmp_path_factory.mktemp("segment") / "segment.ts", 20, codec="MPG2")


def playlist(entry: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n".encode()


def session(port: int) -> bytes:
    return f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 33\n".encode()


def dash(base: str) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="1"><BaseURL>{base}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>"
    ).encode()


POINTING = {
    "concat": lambda path, _: f"ffconcat version 1.0\nfile {path.name}\n".encode(),
    "concat of another folder": lambda path, _: f"ffconcat version 1.0\nfile {path}\n".encode(),
    "concat of an address": lambda _, port: f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.ts\n".encode(),
    "playlist": lambda path, _: playlist(path.name),
    "playlist of another folder": lambda path, _: playlist(f"file://{path}"),
    "playlist of an address": lambda _, port: playlist(f"http://127.0.0.1:{port}/a.ts"),
    "playlist of a protocol": lambda path, _: playlist(f"concat:{path}|{path}"),
    "session": lambda _, port: session(port),
    "dash": lambda _, port: dash(f"http://127.0.0.1:{port}/a.mp4"),
    "video before a session": lambda _, port: b"\x1a\x45\xdf\xa3\n" + session(port),
    "video before dash": lambda _, port: b"\x1a\x45\xdf\xa3\n" + dash(f"http://127.0.0.1:{port}/a.mp4"),
}


@pytest.mark.parametrize("checked", [True, False], ids=["by its beginning", "by FFmpeg"])
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "sdp", "ffconcat", "mpd"])
@pytest.mark.parametrize("name", POINTING)
def test_a_file_opens_no_other(
    name: str,
    suffix: str,
    checked: bool,
    segment: Path,
    tmp_path: Path,
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two guards refuse it; each does without the other."""
    if not checked:
        monkeypatch.setattr(video_file, "check_container", lambda _: None)
    beside = Path(shutil.copy(segment, tmp_path / "beside.ts"))
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(POINTING[name](beside, canary.port))
    with pytest.raises(FrameSourceError, match=rf"clip\.{suffix} .* is not a video"):
        open_source(path)
    assert canary.connections == 0


def test_such_files_would_open_others(segment: Path, tmp_path: Path) -> None:
    """The test above rests on it."""
    beside = Path(shutil.copy(segment, tmp_path / "beside.ts"))
    path = tmp_path / "clip.m3u8"
    path.write_bytes(POINTING["playlist of another folder"](beside, 0))
    assert len(clips.read_clip(path)) == 20


@pytest.mark.parametrize(
    "name", ["concat:segment.ts", "subfile,,start,0,end,0,,:segment.ts", "http:", "img%03d.ts", "-"]
)
def test_the_name_of_a_file_is_no_address(
    name: str, segment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(segment, name)
    with open_source(name) as source:
        assert sum(1 for _ in source) == 20


def test_no_format_that_follows_names_is_among_those_of_files() -> None:
    formats = set(video_file.OPTIONS["format_whitelist"].split(","))
    assert not formats & {"concat", "hls", "dash", "sdp", "rtsp", "image2", "lavfi", "tty"}
    assert video_file.OPTIONS["protocol_whitelist"] == "file"
