"""Video files that are whole, of every kind and of awkward names."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import pytest

from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.file import open_video

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
        path = clips.encode(tmp_path / "bare.h264", clips.numbered_frames(5), "libx264", "yuv420p")
        with open_video(path) as source:
            assert (source.fps, source.length) == (None, None)
            assert [frame.pts for frame in source] == [None] * 5

    def test_a_rate_that_is_a_clock_is_unknown(self, tmp_path: Path) -> None:
        path = clips.encode(tmp_path / "clock.mkv", clips.numbered_frames(3), "ffv1", "yuv420p", rate=90000)
        with open_video(path) as source:
            assert source.fps is None
            assert len(list(source)) == 3

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
    def test_sound_that_is_longer_than_the_picture_does_not_make_it_cut_off(self, suffix: str, tmp_path: Path) -> None:
        path = clips.encode(tmp_path / f"sound{suffix}", clips.numbered_frames(10), "mpeg4", "yuv420p", audio_seconds=4)
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
            for picture in clips.numbered_frames(5):
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
            clips.encode(tmp_path / "a.ts", clips.numbered_frames(5), "libx264", "yuv420p").read_bytes()
            + clips.encode(
                tmp_path / "b.ts",
                clips.numbered_frames(5, height=192, width=256),
                "libx264",
                "yuv420p",
                size=(256, 192),
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
