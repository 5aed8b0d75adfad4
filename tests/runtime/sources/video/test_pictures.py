"""Pictures of decoders: views of their planes, whatever lies between the lines, and their conversion in threads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from native_threads import native_threads

from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.video.pictures import Converter, orientation_of, planes_of

av = pytest.importorskip("av")


def coloured(width: int = 70, height: int = 46, pix_fmt: str = "yuv420p") -> Any:
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgr24").reformat(format=pix_fmt)


def upside_down(frame: Any) -> Any:
    """The picture turned over by FFmpeg, which walks through its lines backwards."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base="1/25")
    flip, sink = graph.add("vflip"), graph.add("buffersink")
    source.link_to(flip)
    flip.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "nv12"])
def test_lines_that_go_backwards(pix_fmt: str) -> None:
    frame = coloured(pix_fmt=pix_fmt)
    turned = upside_down(frame)
    assert turned.planes[0].line_size < 0
    converter = Converter()
    planes, expected = planes_of(turned, converter), planes_of(frame, converter)
    assert planes is not None
    assert expected is not None
    for name in ("y", "u", "v"):
        np.testing.assert_array_equal(getattr(planes, name), getattr(expected, name)[::-1])


def test_planes_outlive_their_frame() -> None:
    converter = Converter()
    planes = planes_of(coloured(), converter)
    assert planes is not None
    before = planes.y.copy()
    for _ in range(20):
        coloured()
    np.testing.assert_array_equal(planes.y, before)
    assert (planes.height, planes.width) == (46, 70)
    assert planes.u.shape == planes.v.shape == (23, 35)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda planes: pickle.loads(pickle.dumps(planes))])
def test_planes_are_copied_and_sent_to_other_processes(copied: Callable[[YuvPlanes], YuvPlanes]) -> None:
    planes = planes_of(coloured(pix_fmt="nv12"), Converter())
    assert planes is not None
    same = copied(planes)
    for name in ("y", "u", "v"):
        np.testing.assert_array_equal(getattr(same, name), getattr(planes, name))
    assert (same.matrix, same.full_range) == (planes.matrix, planes.full_range)
    assert np.abs(same.bgr().astype(int) - planes.bgr()).max() <= 1


def test_threads_convert_pictures_of_different_sizes_at_once() -> None:
    frames = [coloured(width, height) for width, height in ((70, 46), (128, 96), (33, 21), (640, 360))] * 10
    expected = [Converter().bgr(frame) for frame in frames]
    converter = Converter()
    with ThreadPoolExecutor(8) as pool:
        for got, right in zip(pool.map(converter.bgr, frames), expected, strict=True):
            np.testing.assert_array_equal(got, right)


def test_a_conversion_starts_no_threads() -> None:
    frame = coloured(640, 480)
    converter, before = Converter(), native_threads()
    converter.bgr(frame)
    assert native_threads() <= before  # a thread that made the frame may end meanwhile


def test_a_picture_without_a_matrix_is_shown_as_it_is_stored() -> None:
    assert orientation_of(coloured()) == 1


def test_other_pixel_formats_have_no_planes() -> None:
    for pix_fmt in ("bgr24", "gray", "yuv420p10le", "yuva420p", "yuyv422"):
        assert planes_of(coloured(pix_fmt=pix_fmt), Converter()) is None
