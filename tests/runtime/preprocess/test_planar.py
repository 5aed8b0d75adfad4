"""Planes that are resized before they become colours, against the other order; photos as video."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axes import dense
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planes import h264, unclipped_bgr

from vitedge.bundle.preprocessing import INTERPOLATIONS, ChannelOrder, Interpolation, Preprocessing, ResizeMode
from vitedge.errors import FrameSourceError, UsageError
from vitedge.runtime.preprocess import planar
from vitedge.runtime.preprocess import planes as planes_module
from vitedge.runtime.preprocess import preprocessor as preprocessor_module
from vitedge.runtime.preprocess.planes import MATRICES, Matrix, YuvPlanes
from vitedge.runtime.preprocess.preprocessor import Preprocessor, _window
from vitedge.runtime.preprocess.taps import FILTERS, pillow_taps
from vitedge.runtime.sources.images.reading import list_images, read_image

Image = NDArray[np.uint8]
Float = NDArray[np.float64]

SMOOTH: tuple[Interpolation, ...] = tuple(name for name in INTERPOLATIONS if name != "nearest")
CAMERA = Preprocessing((224, 224), (256, 256))


def muted(height: int, width: int, steps: tuple[int, int] = (2, 2), seed: int = 0, **kind: Any) -> YuvPlanes:
    """Noise of colours that no filter takes beyond black or white."""
    random = np.random.default_rng(seed)
    chroma = (-(-height // steps[0]), -(-width // steps[1]))
    y = random.integers(100, 156, (height, width), dtype=np.uint8)
    u, v = (random.integers(118, 139, chroma, dtype=np.uint8) for _ in range(2))
    return YuvPlanes(y, u, v, **kind)


def slowly(planes: YuvPlanes, preprocessing: Preprocessing, *, rounds_down: bool) -> Image:
    """Colours of the whole frame, resized in float64 by dense matrices, rounded once."""
    window = _window(preprocessing, planes.height, planes.width)
    down, across = (
        dense(pillow_taps(FILTERS[preprocessing.interpolation], axis)) for axis in (window.rows, window.columns)
    )
    resized = np.einsum("ih,hwc,jw->ijc", down, unclipped_bgr(planes, rounds_down=rounds_down), across, optimize=True)
    out = np.empty((*preprocessing.input_size, 3), np.uint8)
    part = window.padded(out)
    part[...] = np.clip(np.floor(resized + 0.5), 0, 255)[..., :: 1 if preprocessing.channel_order == "BGR" else -1]
    return out


@dataclass(frozen=True, eq=False)
class Unconvertible(YuvPlanes):
    """Planes that nobody may turn into a whole picture."""

    def bgr(self) -> Image:
        raise AssertionError("the whole frame became colours")


def unconvertible(planes: YuvPlanes) -> Unconvertible:
    return Unconvertible(planes.y, planes.u, planes.v, planes.matrix, planes.full_range)


@settings(max_examples=150, deadline=None)
@given(
    input_size=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    mode=st.sampled_from(["shortest", "squash", "border"]),
    interpolation=st.sampled_from(SMOOTH),
    order=st.sampled_from(["RGB", "BGR"]),
    size=st.tuples(st.integers(30, 90), st.integers(30, 90)).map(lambda sides: (2 * sides[0], 2 * sides[1])),
    steps=st.sampled_from([(1, 1), (1, 2), (2, 2)]),
    matrix=st.sampled_from(MATRICES),
    full_range=st.booleans(),
    rounds_down=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_orders_give_the_same_picture(
    input_size: tuple[int, int],
    mode: ResizeMode,
    interpolation: Interpolation,
    order: ChannelOrder,
    size: tuple[int, int],
    steps: tuple[int, int],
    matrix: Matrix,
    full_range: bool,
    rounds_down: bool,
    seed: int,
) -> None:
    preprocessing = Preprocessing(input_size, (48, 52), mode, interpolation, channel_order=order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes_module, "ROUNDS_DOWN", rounds_down)
        patch.setattr(preprocessor_module, "LEAST_SHRINKING", 1.1)
        planes = unconvertible(muted(*size, steps, seed, matrix=matrix, full_range=full_range))
        got = Preprocessor(preprocessing)(planes)
        expected = slowly(planes, preprocessing, rounds_down=rounds_down and steps[1] == 2)
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert got.size < 3000 or abs(np.mean(got.astype(float) - expected)) < 0.1


def test_products_are_rounded_one_by_one_as_by_swscale() -> None:
    """In a smooth picture their mean would be off by up to half a level over whole areas."""
    rows, columns = np.mgrid[:1080, :1920]
    y = 128 + 25 * np.sin(rows / 90) * np.cos(columns / 70)
    u, v = 128 + 15 * np.sin(rows / 150)[::2, ::2], 128 + 15 * np.cos(columns / 120)[::2, ::2]
    planes, preprocessor = (
        unconvertible(YuvPlanes(*(each.astype(np.uint8) for each in (y, u, v)))),
        Preprocessor(CAMERA),
    )
    off = preprocessor(planes).astype(float) - preprocessor(YuvPlanes.bgr(planes))
    assert np.mean(off**2) < 0.1


@pytest.mark.parametrize(
    ("size", "steps", "preprocessing"),
    [
        ((121, 160), (2, 2), Preprocessing((32, 32), (36, 36))),
        ((120, 161), (2, 2), Preprocessing((32, 32), (36, 36))),
        ((121, 161), (1, 2), Preprocessing((32, 32), (36, 36))),
        ((120, 160), (1, 4), Preprocessing((32, 32), (36, 36))),
        ((120, 160), (4, 4), Preprocessing((32, 32), (36, 36))),
        ((120, 160), (2, 1), Preprocessing((32, 32), (36, 36))),
        ((120, 160), (2, 2), Preprocessing((32, 32), (36, 36), interpolation="nearest")),
        ((70, 160), (2, 2), Preprocessing((32, 32), (36, 36))),
        ((20, 30), (2, 2), Preprocessing((32, 32), (36, 36))),
        ((36, 200), (2, 2), Preprocessing((32, 32), (36, 36))),
        ((2, 2), (2, 2), Preprocessing((32, 32), (36, 36))),
        ((1, 1), (1, 1), Preprocessing((32, 32), (36, 36))),
    ],
)
def test_where_nothing_is_saved_planes_become_colours_first(
    size: tuple[int, int], steps: tuple[int, int], preprocessing: Preprocessing
) -> None:
    planes, preprocessor = muted(*size, steps), Preprocessor(preprocessing)
    np.testing.assert_array_equal(preprocessor(planes), preprocessor(planes.bgr()))
    with pytest.raises(AssertionError, match="whole frame"):
        preprocessor(unconvertible(planes))


def scattered(height: int, width: int, share: float) -> YuvPlanes:
    """Noise of which a share of the pixels is far beyond white in red."""
    planes = muted(height, width)
    clipped = np.random.default_rng(0).random(planes.u.shape) < share
    return YuvPlanes(planes.y, planes.u, np.where(clipped, np.uint8(255), planes.v))


def saturated(height: int, width: int) -> YuvPlanes:
    """Textured patches of colours up to far beyond black and white, on a muted ground."""
    random, planes = np.random.default_rng(0), muted(height, width)
    rows, columns = -(-height // 240), -(-width // 320)
    u, v = (np.kron(random.integers(0, 256, (rows, columns)), np.ones((120, 160))) for _ in range(2))
    patches = np.kron(random.random((rows, columns)) < 0.5, np.ones((120, 160), np.bool_))[: height // 2, : width // 2]
    u, v = (
        np.where(patches, patch[: height // 2, : width // 2], plane).astype(np.uint8)
        for patch, plane in ((u, planes.u), (v, planes.v))
    )
    return YuvPlanes(planes.y, u, v)


def over_one(preprocessor: Preprocessor, planes: YuvPlanes) -> float:
    """Share of the pixels that are more than 1 off the whole picture, resized."""
    off = np.abs(preprocessor(planes).astype(int) - preprocessor(YuvPlanes.bgr(planes))).max(axis=2)
    return float(np.mean(off > 1))


@pytest.mark.parametrize("size", [(540, 960), (720, 1280), (1080, 1920)])
def test_frames_of_some_clipped_colours_stay_planes_and_those_of_many_become_colours_first(
    size: tuple[int, int],
) -> None:
    preprocessor = Preprocessor(CAMERA)
    assert over_one(preprocessor, unconvertible(scattered(*size, 0.0005))) < 0.01
    with pytest.raises(AssertionError, match="whole frame"):
        preprocessor(unconvertible(scattered(*size, 1.0)))


@pytest.mark.parametrize("size", [(540, 960), (720, 1280), (1080, 1920)])
@pytest.mark.parametrize("share", [0.005, 0.05, 1.0])
def test_scattered_clipped_colours_are_right(size: tuple[int, int], share: float) -> None:
    assert over_one(Preprocessor(CAMERA), scattered(*size, share)) < 0.01


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("steps", [(2, 2), (1, 2), (1, 1)])
def test_what_clipping_takes_is_corrected(
    steps: tuple[int, int], order: ChannelOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planar, "CORRECTED_SHARE", 1.0)
    planes = saturated(1080, 1920)
    u, v = (plane.repeat(2 // steps[0], axis=0).repeat(2 // steps[1], axis=1) for plane in (planes.u, planes.v))
    planes = unconvertible(YuvPlanes(planes.y, u, v))
    assert over_one(Preprocessor(Preprocessing((224, 224), (256, 256), channel_order=order)), planes) < 0.01


def test_without_the_correction_clipping_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planar, "CORRECTED_SHARE", 1.0)
    monkeypatch.setattr(planar._Clipping, "correct", lambda *_: None)
    assert over_one(Preprocessor(CAMERA), unconvertible(saturated(1080, 1920))) > 0.05


def test_chroma_in_pairs_and_padded_rows_give_the_same() -> None:
    planes, preprocessor = muted(240, 320), Preprocessor(Preprocessing((64, 64), (72, 72)))
    pairs = np.stack([planes.u, planes.v], axis=-1)
    luma = np.zeros((240, 352), np.uint8)[:, 7:327]
    luma[...] = planes.y
    for plane in (pairs, luma):
        plane.flags.writeable = False
    views = unconvertible(YuvPlanes(luma, pairs[..., 0], pairs[..., 1]))
    np.testing.assert_array_equal(preprocessor(views), preprocessor(planes))


def test_threads_share_a_preprocessor() -> None:
    preprocessor = Preprocessor(Preprocessing((32, 32), (36, 36)))
    frames = [muted(80, 120, seed=0), muted(100, 90, seed=1), muted(80, 120, seed=2), muted(80, 120, (1, 1)).bgr()]
    expected = [preprocessor(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for index, got in enumerate(pool.map(preprocessor, frames * 20)):
            np.testing.assert_array_equal(got, expected[index % len(frames)])


def test_the_result_is_written_where_the_engine_reads() -> None:
    planes, preprocessor = muted(80, 120), Preprocessor(Preprocessing((32, 32), (36, 36)))
    out = np.zeros((3, 32, 32), np.uint8).transpose(1, 2, 0)
    assert preprocessor(planes, out=out) is out
    np.testing.assert_array_equal(out, preprocessor(planes))
    with pytest.raises(UsageError, match="out is"):
        preprocessor(planes, out=np.zeros((32, 33, 3), np.uint8))
    with pytest.raises(UsageError, match="order"):
        preprocessor(planes, order="GBR")  # type: ignore[arg-type]


def test_planes_too_long_for_their_other_side_are_refused() -> None:
    planes = YuvPlanes(*(np.zeros((1, 120_000), np.uint8) for _ in range(3)))
    with pytest.raises(FrameSourceError, match="would be resized"):
        Preprocessor(CAMERA)(planes)


@pytest.fixture(scope="module")
def as_video(shared_data: Path) -> list[Any]:
    """Flowers of every class, at three sizes, as frames of H.264."""
    pillow = pytest.importorskip("PIL.Image")
    paths = list_images(shared_data / "flowers" / "val")
    frames = []
    for path in paths[:: len(paths) // 8][:8]:
        image = pillow.fromarray(read_image(path))
        for size in (image.size, (720, 480), (1920, 1080)):
            even = image.resize([side // 2 * 2 for side in size], pillow.Resampling.BICUBIC)
            frames.append(h264(np.asarray(even)))
    return frames


@pytest.mark.parametrize(
    ("by_ffmpeg", "preprocessing"),
    [(True, CAMERA), (True, Preprocessing((128, 128), (146, 146), interpolation="bilinear")), (False, CAMERA)],
)
def test_photos_as_video_equal_swscale_s_picture_resized(
    by_ffmpeg: bool, preprocessing: Preprocessing, as_video: list[Any]
) -> None:
    """Within 1 on 99 % of the pixels; more than 2 off only where swscale clips colours nearby."""
    pictures = pytest.importorskip("vitedge.runtime.sources.video.pictures")
    preprocessor, resized_first = Preprocessor(preprocessing), 0
    for frame in as_video:
        planes = pictures.planes_of(frame, pictures.Converter())
        expected = preprocessor(planes.bgr())
        if not by_ffmpeg:
            planes = YuvPlanes(planes.y, planes.u, planes.v, planes.matrix, planes.full_range)
        off = np.abs(preprocessor(planes).astype(int) - expected).max(axis=2)
        resized_first += bool(off.any())
        assert np.mean(off > 1) <= 0.01
        assert not np.any(off > 2) or not np.any((off > 2) & ~near_clipped(planes, preprocessing))
    assert resized_first >= 4


def near_clipped(planes: YuvPlanes, preprocessing: Preprocessing) -> NDArray[np.bool_]:
    """The pixels of the network's input that a clipped colour of the frame takes part in."""
    colours = unclipped_bgr(planes, rounds_down=True)
    clipped = ((colours < 0) | (colours > 255)).any(axis=2)
    window = _window(preprocessing, planes.height, planes.width)
    down, across = (
        dense(pillow_taps(FILTERS[preprocessing.interpolation], axis)) != 0 for axis in (window.rows, window.columns)
    )
    return (down.astype(np.float32) @ clipped @ across.T.astype(np.float32)) > 0


@pytest.mark.parametrize("pairs", ["nv12", "nv21"])
def test_a_picture_has_the_same_colours_in_pairs_and_in_planes(pairs: str) -> None:
    av = pytest.importorskip("av")
    pictures = pytest.importorskip("vitedge.runtime.sources.video.pictures")
    rgb = np.random.default_rng(0).integers(60, 190, (600, 800, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
    converter, preprocessor = pictures.Converter(), Preprocessor(CAMERA)
    one, other = (pictures.planes_of(each, converter) for each in (frame, frame.reformat(format=pairs)))
    np.testing.assert_array_equal(one.bgr(), other.bgr())
    np.testing.assert_array_equal(preprocessor(one), preprocessor(other))
