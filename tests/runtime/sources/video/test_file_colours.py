"""Colours and orientation that video files state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.decoder import Decoded
from vitedge.runtime.sources.video.file import open_video
from vitedge.runtime.sources.video.packets import ContainerPackets

av = pytest.importorskip("av")

import clips  # noqa: E402 - needs PyAV

pytestmark = pytest.mark.timeout(120)


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
            path = clips.encode(tmp_path / "clip.nut", [stored, stored], codec, pix_fmt, size=size)
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
        path = clips.encode(tmp_path / "clip.mkv", [stored], "ffv1", "yuv444p", size=(128, 128), tags=tags)
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
