"""Frames of a decoder that FFmpeg resizes, against the whole picture that is resized as Pillow does."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from axes import axes
from hypothesis import given, settings
from hypothesis import strategies as st
from native_threads import native_threads
from numpy.typing import NDArray
from planes import h264

from vitedge.bundle.preprocessing import ChannelOrder, Preprocessing
from vitedge.runtime.preprocess import swscale
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.preprocess.swscale import MOST_SHIFT, AxisPart, SwscaleResampler, find_part, frame_kind
from vitedge.runtime.preprocess.taps import ResizeAxis

av = pytest.importorskip("av")
pictures = pytest.importorskip("vitedge.runtime.sources.video.pictures")

Image = NDArray[np.uint8]

CAMERA = Preprocessing((224, 224), (256, 256))
FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21")


@cache
def picture(height: int, width: int) -> Image:
    """Waves and noise, of colours that no filter takes beyond black or white."""
    rows, columns = np.mgrid[:height, :width]
    waves = 128 + 40 * np.sin(columns / 9) * np.cos(rows / 7)
    colours = np.stack([waves, np.roll(waves, 5, axis=0), np.roll(waves, 9, axis=1)], axis=2)
    noise = np.random.default_rng(0).normal(0, 6, colours.shape)
    return np.asarray(np.clip(colours + noise, 0, 255), np.uint8)


def decoded(height: int, width: int, pixel_format: str = "yuv420p") -> Any:
    """A ``VideoFrame`` of the picture."""
    return av.VideoFrame.from_ndarray(picture(height, width), format="rgb24").reformat(format=pixel_format)


def planes_of(frame: Any) -> Any:
    return pictures.planes_of(frame, pictures.Converter())


def off(preprocessor: Preprocessor, planes: YuvPlanes) -> NDArray[np.int_]:
    """How far each value is from the whole picture, resized."""
    return np.asarray(preprocessor(planes).astype(int) - preprocessor(planes.bgr()))


@pytest.fixture
def unconverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame may become a whole picture."""

    def convert(*_: Any) -> Image:
        raise AssertionError("the whole frame became colours")

    monkeypatch.setattr(pictures.DecodedPlanes, "bgr", convert)


def assert_near(values: NDArray[np.int_]) -> None:
    assert np.abs(values).max() <= 2
    assert np.mean(np.abs(values).max(axis=2) > 1) < 1e-3
    assert np.mean(values**2) < 0.2
    assert abs(np.mean(values)) < 0.015


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (1280, 720), (480, 640)])
def test_frames_of_cameras(size: tuple[int, int]) -> None:
    assert_near(off(Preprocessor(CAMERA), planes_of(decoded(*size))))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_orders_of_channels(order: ChannelOrder) -> None:
    preprocessing = Preprocessing((224, 224), (256, 256), channel_order=order)
    assert_near(off(Preprocessor(preprocessing), planes_of(decoded(480, 640))))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((128, 128), (146, 146), interpolation="bilinear"),
        Preprocessing((64, 96), (72, 110), "squash"),
        Preprocessing((256, 256), (269, 269)),
    ],
)
def test_sizes_and_filters_of_models(preprocessing: Preprocessing) -> None:
    assert_near(off(Preprocessor(preprocessing), planes_of(decoded(720, 1280))))


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_pixel_formats(pixel_format: str) -> None:
    assert_near(off(Preprocessor(CAMERA), planes_of(decoded(720, 1280, pixel_format))))


@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_matrices_and_ranges(color_range: int) -> None:
    """Every number that FFmpeg has for a matrix; matrices that it cannot convert mean BT.601."""
    preprocessor, frame = Preprocessor(Preprocessing((56, 56), (64, 64))), decoded(270, 480)
    frame.color_range = color_range
    for colorspace in (*range(18), 99):
        frame.colorspace = colorspace
        assert_near(off(preprocessor, planes_of(frame)))


def test_colours_that_change_in_mid_stream() -> None:
    preprocessor = Preprocessor(Preprocessing((112, 112), (128, 128)))
    for colorspace in (1, 9, 1, 2):
        frame = decoded(540, 960)
        frame.colorspace = colorspace
        assert_near(off(preprocessor, planes_of(frame)))


def test_pixels_that_are_not_square() -> None:
    preprocessor = Preprocessor(CAMERA)
    for aspect in ("4:3", "1:1", "16:11"):
        assert_near(off(preprocessor, planes_of(h264(picture(576, 720), aspect=aspect))))


@pytest.mark.usefixtures("unconverted")
def test_the_whole_frame_does_not_become_colours() -> None:
    for pixel_format in FORMATS:
        Preprocessor(CAMERA)(planes_of(decoded(480, 640, pixel_format)))


@pytest.mark.parametrize(
    ("size", "pixel_format", "preprocessing"),
    [
        ((481, 640), "yuv420p", CAMERA),
        ((480, 641), "yuv420p", CAMERA),
        ((480, 640), "yuv411p", CAMERA),
        ((480, 640), "yuv440p", CAMERA),
        ((380, 640), "yuv420p", CAMERA),
        ((480, 640), "yuv420p", Preprocessing((224, 224), (256, 256), interpolation="lanczos")),
        ((480, 640), "yuv420p", Preprocessing((224, 224), (256, 256), interpolation="nearest")),
        ((480, 640), "yuv420p", Preprocessing((224, 224), (224, 224))),
        ((480, 640), "yuv420p", Preprocessing((224, 224), (226, 226))),
        ((480, 640), "yuv420p", Preprocessing((224, 224), (224, 224), "squash")),
        ((480, 640), "yuv420p", Preprocessing((224, 224), (224, 224), "border")),
    ],
)
def test_where_swscale_differs_the_whole_frame_becomes_colours(
    size: tuple[int, int], pixel_format: str, preprocessing: Preprocessing
) -> None:
    assert not off(Preprocessor(preprocessing), planes_of(decoded(*size, pixel_format))).any()


def test_a_copy_without_its_frame_is_resized_as_planes() -> None:
    planes = planes_of(decoded(540, 960))
    alone = YuvPlanes(planes.y, planes.u, planes.v, planes.matrix, planes.full_range)
    preprocessor = Preprocessor(Preprocessing((112, 112), (128, 128)))
    assert np.abs(preprocessor(alone).astype(int) - preprocessor(planes)).max() <= 2


@settings(max_examples=300, deadline=None)
@given(axis=axes(), support=st.integers(1, 2))
def test_a_part_holds_what_its_outputs_depend_on(axis: ResizeAxis, support: int) -> None:
    part, scale = find_part(axis, support), axis.source / axis.resized
    assert 0 <= part.source.start < part.source.stop <= axis.source
    assert part.resized.start == 0 or part.resized.start <= axis.start - support
    assert part.resized.stop == axis.resized or part.resized.stop >= axis.stop + support
    for source, resized in ((part.source.start, part.resized.start), (part.source.stop, part.resized.stop)):
        assert abs(source / scale - resized) <= MOST_SHIFT + 1e-9


@pytest.mark.parametrize(("row", "column"), [(10, 20), (11, 20), (10, 21), (11, 21)])
def test_a_part_at_odd_pixels_has_the_colours_of_the_whole_frame(
    row: int, column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swscale, "find_part", lambda axis, _: AxisPart(*(slice(axis.start, axis.stop),) * 2))
    planes = planes_of(decoded(96, 128))
    axes = ResizeAxis(96, 96, row, 95), ResizeAxis(128, 128, column, 127)
    found = np.zeros((95 - row, 127 - column, 3), np.uint8)
    SwscaleResampler("bicubic", *axes, frame_kind(planes))(planes.decoder_frame, False, found)
    assert np.array_equal(found, planes.bgr()[row:95, column:127])


def test_of_a_wide_frame_only_a_part_is_resized() -> None:
    part = find_part(ResizeAxis(1920, 455, 116, 340), 2)
    assert part.source.stop - part.source.start < 1920 * 0.6


def test_a_shifted_part_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swscale, "MOST_SHIFT", 0.1)
    values = off(Preprocessor(CAMERA), planes_of(decoded(480, 640)))
    with pytest.raises(AssertionError):
        assert_near(values)


def test_the_result_is_written_where_the_engine_reads() -> None:
    planes, preprocessor = planes_of(decoded(480, 640)), Preprocessor(CAMERA)
    out = np.zeros((3, 224, 224), np.uint8).transpose(1, 2, 0)
    assert preprocessor(planes, out=out) is out
    np.testing.assert_array_equal(out, preprocessor(planes))


def test_threads_share_a_preprocessor() -> None:
    preprocessor = Preprocessor(CAMERA)
    frames = [planes_of(decoded(*size)) for size in ((480, 640), (540, 960), (576, 720))]
    expected = [preprocessor(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for index, got in enumerate(pool.map(preprocessor, frames * 10)):
            np.testing.assert_array_equal(got, expected[index % len(frames)])


def test_filters_start_no_threads_and_end_with_their_preprocessor() -> None:
    planes, before = planes_of(decoded(480, 640)), native_threads()
    preprocessor = Preprocessor(CAMERA)
    preprocessor(planes)
    if hasattr(av.filter.Graph, "threads"):
        assert native_threads() <= before  # a thread that made the frame may end meanwhile
    del preprocessor
    gc.collect()
    assert native_threads() <= before
