"""The preprocessor against timm's evaluation transform; frames that are refused."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pillow_rounding import Mask, filters_columns_first, may_differ

from vitedge.bundle.preprocessing import INTERPOLATIONS, Interpolation, Preprocessing, ResizeMode, resize_size_for
from vitedge.errors import FrameSourceError, UsageError
from vitedge.runtime.preprocess import preprocessor as module
from vitedge.runtime.preprocess.preprocessor import KEPT_PLANS, Preprocessor, check_frame
from vitedge.runtime.preprocess.taps import ResizeAxis
from vitedge.runtime.sources.images.reading import list_images, read_image
from vitedge.runtime.sources.open import open_source
from vitedge.safety.limits import IMAGE_SIDE

Image = NDArray[np.uint8]

MEAN = (0.485, 0.456, 0.406)


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def timm_pixels(rgb: Image, preprocessing: Preprocessing, crop_pct: float) -> Image:
    """What timm's evaluation transform makes of a picture, before ``ToTensor``."""
    factory = pytest.importorskip("timm.data.transforms_factory")
    pillow = pytest.importorskip("PIL.Image")
    mode = "center" if preprocessing.resize_mode == "shortest" else preprocessing.resize_mode
    transform = factory.transforms_imagenet_eval(
        preprocessing.input_size,
        crop_pct=crop_pct,
        crop_mode=mode,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        use_prefetcher=True,
    )
    pixels: Image = transform(pillow.fromarray(rgb)).numpy().transpose(1, 2, 0)
    return pixels


def assert_same_picture(got: Image, expected: Image) -> None:
    """Equal within 1, and almost everywhere equal: on photos few values are close to a half."""
    assert got.shape == expected.shape
    off = np.abs(got.astype(int) - expected)
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 3 + 0.02 * off.size


def columns_first(preprocessing: Preprocessing, height: int, width: int) -> bool:
    """Whether Pillow 13 filters in another order than older versions."""
    sides = zip((height, width), preprocessing.geometry(height, width).resized, strict=True)
    return filters_columns_first(*(ResizeAxis(source, resized, 0, resized) for source, resized in sides))


def pillow_version() -> int:
    return int(pytest.importorskip("PIL").__version__.split(".")[0])


@settings(max_examples=200, deadline=None)
@given(
    input_size=st.one_of(
        st.integers(1, 96).map(lambda side: (side, side)), st.tuples(st.integers(1, 96), st.integers(1, 96))
    ),
    crop_pct=st.one_of(st.sampled_from([0.875, 0.95, 1.0]), st.floats(0.4, 1.5)),
    mode=st.sampled_from(["shortest", "squash", "border"]),
    interpolation=st.sampled_from(INTERPOLATIONS),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_is_preprocessed_as_by_timm(
    input_size: tuple[int, int],
    crop_pct: float,
    mode: ResizeMode,
    interpolation: Interpolation,
    height: int,
    width: int,
    seed: int,
) -> None:
    resize_size = resize_size_for(input_size, crop_pct)
    assume(min(resize_size) > 0 and max(height, width) <= 40 * min(height, width))
    preprocessing = Preprocessing(input_size, resize_size, mode, interpolation, mean=MEAN)
    assume(pillow_version() >= 13 or not columns_first(preprocessing, height, width))
    frame = noise(height, width, seed)
    try:
        expected = timm_pixels(frame, preprocessing, crop_pct)
    except ValueError:  # a side rounds to 0, which timm refuses
        assume(False)
    got = Preprocessor(preprocessing)(frame, order="RGB")
    off = np.abs(got.astype(int) - expected)
    assert off.max() <= 1
    assert not np.any((off > 0) & ~may_differ_in(preprocessing, frame))


@pytest.mark.parametrize("seed", [0, 2, 21])
def test_a_drawing_is_preprocessed_as_by_timm(seed: int) -> None:
    """Flat blocks repeat their rows, so that a wrong rounding of the first pass would repeat as well."""
    pillow = pytest.importorskip("PIL.Image")
    colours = np.random.default_rng(seed).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    frame = np.ascontiguousarray(np.kron(colours, np.ones((11, 11, 1), np.uint8))[:141, :180])
    expected = np.asarray(pillow.fromarray(frame).resize((66, 52), pillow.Resampling.BICUBIC))
    got = Preprocessor(Preprocessing((52, 66), (52, 66), "squash", "bicubic"))(frame, order="RGB")
    assert np.abs(got.astype(int) - expected).max() <= 1


def may_differ_in(preprocessing: Preprocessing, frame: Image) -> Mask:
    """The values of the network's input that may round to a neighbour of Pillow's value; none of the padding."""
    geometry, size = preprocessing.geometry(*frame.shape[:2]), preprocessing.input_size
    rows, columns = map(module._axis, frame.shape[:2], geometry.resized, geometry.offset, size)
    (top, left), allowed = geometry.offset, np.zeros((*size, 3), np.bool_)
    covered = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    allowed[covered] = may_differ(frame, preprocessing.interpolation, rows, columns)
    return allowed


MODELS = ("deit_tiny_imagenet", "mobilevit_xxs_flowers", "vit_flowers")


def model_preprocessing(folder: Path) -> tuple[Preprocessing, float]:
    """What a model's ``config.json`` asks for, and its crop fraction."""
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    _, height, width = config["input_size"]
    crop_pct = config["crop_pct"]
    preprocessing = Preprocessing(
        (height, width),
        resize_size_for((height, width), crop_pct),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return preprocessing, crop_pct


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Image]:
    """40 flowers, from every class; their short side is 256 pixels."""
    paths = list_images(shared_data / "flowers" / "val")
    return [read_image(path) for path in paths[:: len(paths) // 40][:40]]


@pytest.fixture(scope="module")
def video_frames(shared_data: Path) -> list[Image]:
    """A few frames of every clip, BGR."""
    pytest.importorskip("av")
    return [frame for path in sorted((shared_data / "video").glob("*.m*")) for frame in some_frames(path)]


def some_frames(path: Path) -> list[Image]:
    with open_source(path) as source:
        frames = [frame.image for frame in itertools.islice(source, 0, 141, 70)]
    assert len(frames) == 3
    return frames


@pytest.mark.parametrize("model", MODELS)
def test_photos_are_preprocessed_as_by_timm(model: str, photos: list[Image], shared_data: Path) -> None:
    preprocessing, crop_pct = model_preprocessing(shared_data / "models" / model)
    preprocessor = Preprocessor(preprocessing)
    assert len({photo.shape for photo in photos}) > 10
    for photo in photos:
        got = preprocessor(photo, order="RGB")
        expected = timm_pixels(photo, preprocessing, crop_pct)
        if min(photo.shape[:2]) == preprocessing.resize_size[0]:
            np.testing.assert_array_equal(got, expected)
        assert_same_picture(got, expected)


@pytest.mark.parametrize("model", MODELS)
def test_video_frames_are_preprocessed_as_by_timm(model: str, video_frames: list[Image], shared_data: Path) -> None:
    preprocessing, crop_pct = model_preprocessing(shared_data / "models" / model)
    preprocessor = Preprocessor(preprocessing)
    for frame in video_frames:
        rgb = np.ascontiguousarray(frame[:, :, ::-1])
        assert_same_picture(preprocessor(frame), timm_pixels(rgb, preprocessing, crop_pct))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("mode", ["shortest", "squash", "border"])
def test_photos_in_every_mode(
    mode: ResizeMode, interpolation: Interpolation, photos: list[Image], shared_data: Path
) -> None:
    preprocessing = Preprocessing((96, 112), resize_size_for((96, 112), 0.9), mode, interpolation)
    for photo in photos[::10]:
        if pillow_version() >= 13 or not columns_first(preprocessing, *photo.shape[:2]):
            expected = timm_pixels(photo, preprocessing, 0.9)
            assert_same_picture(Preprocessor(preprocessing)(photo, order="RGB"), expected)


DEIT = Preprocessing((224, 224), (256, 256))


def smooth_frame(height: int = 480, width: int = 640) -> Image:
    """A picture with edges and gradients, on which small mistakes stay small."""
    row, column = np.mgrid[:height, :width]
    planes = [127 + 120 * np.sin(row / 31 + column / 57 + phase) for phase in (0, 1, 2)]
    frame = np.stack(planes, axis=2).astype(np.uint8)
    frame[height // 3 : height // 2, width // 3 : width // 2] = (240, 30, 90)
    return frame


def opencv_bicubic(frame: Image) -> Image:
    cv2 = pytest.importorskip("cv2")
    return cv2.resize(frame, (341, 256), interpolation=cv2.INTER_CUBIC)[16:240, 58:282]


def opencv_area(frame: Image) -> Image:
    cv2 = pytest.importorskip("cv2")
    return cv2.resize(frame, (341, 256), interpolation=cv2.INTER_AREA)[16:240, 58:282]


def shifted_by_one(frame: Image) -> Image:
    whole = Preprocessing((256, 341), (256, 341), resize_mode="squash")
    return Preprocessor(whole)(frame, order="RGB")[16:240, 59:283]


def swapped_channels(frame: Image) -> Image:
    return Preprocessor(DEIT)(frame, order="BGR")


def bilinear(frame: Image) -> Image:
    return Preprocessor(Preprocessing((224, 224), (256, 256), interpolation="bilinear"))(frame, order="RGB")


def all_zero(frame: Image) -> Image:
    return np.zeros((224, 224, 3), np.uint8)


def doubled(frame: Image) -> Image:
    return Preprocessor(DEIT)(frame, order="RGB") * np.uint8(2)


def brighter_by_one(frame: Image) -> Image:
    return Preprocessor(DEIT)(frame, order="RGB") + np.uint8(1)


@pytest.mark.parametrize(
    "wrong",
    [
        opencv_bicubic,
        opencv_area,
        shifted_by_one,
        swapped_channels,
        bilinear,
        all_zero,
        doubled,
        brighter_by_one,
    ],
)
def test_the_comparison_notices_other_preprocessing(wrong: Callable[[Image], Image]) -> None:
    frame = smooth_frame()
    expected = timm_pixels(frame, DEIT, 0.875)
    assert_same_picture(Preprocessor(DEIT)(frame, order="RGB"), expected)
    with pytest.raises(AssertionError):
        assert_same_picture(wrong(frame), expected)


SIZES = [(480, 640), (256, 300), (100, 90), (900, 300), (700, 256)]
"""Smaller, cropped alone, enlarged, and columns first."""


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_channel_orders(height: int, width: int, interpolation: Interpolation) -> None:
    frame = noise(height, width)
    rgb = Preprocessor(Preprocessing((224, 224), (256, 256), interpolation=interpolation))
    bgr = Preprocessor(Preprocessing((224, 224), (256, 256), interpolation=interpolation, channel_order="BGR"))
    expected = rgb(frame, order="RGB")
    assert_same_picture(rgb(frame[:, :, ::-1], order="BGR"), expected)
    assert_same_picture(rgb(frame[:, :, ::-1]), expected)
    assert_same_picture(bgr(frame, order="RGB"), expected[:, :, ::-1])
    assert_same_picture(bgr(frame, order="BGR"), expected)


def test_padding_is_in_the_order_of_the_network() -> None:
    settings_ = {"input_size": (20, 40), "resize_size": (20, 40), "resize_mode": "border", "mean": (0.0, 0.2, 1.0)}
    for order in ("RGB", "BGR"):
        got = Preprocessor(Preprocessing(**settings_, channel_order=order))(noise(30, 30), order="RGB")
        np.testing.assert_array_equal(got[:, :10], np.broadcast_to([0, 51, 255], (20, 10, 3)))
        np.testing.assert_array_equal(got[:, 30:], got[:, :10])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda frame: frame[::-1, ::-1], id="flipped"),
        pytest.param(lambda frame: np.asfortranarray(frame), id="fortran"),
        pytest.param(lambda frame: frame.transpose(1, 0, 2), id="transposed"),
        pytest.param(lambda frame: np.repeat(frame, 2, axis=1)[:, ::2], id="every second column"),
        pytest.param(lambda frame: np.dstack([frame, frame])[:, :, 1:4], id="three of six channels"),
    ],
)
def test_any_strides_are_read(height: int, width: int, view: Callable[[Image], Image]) -> None:
    frame = view(noise(height, width))
    frame.flags.writeable = False
    before = frame.copy()
    preprocessor = Preprocessor(DEIT)
    np.testing.assert_array_equal(preprocessor(frame), preprocessor(before))
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_out_is_written_and_returned(height: int, width: int) -> None:
    preprocessor, frame = Preprocessor(DEIT), noise(height, width)
    expected = preprocessor(frame)
    wide = np.full((1, 226, 230, 4), 7, np.uint8)
    out = wide[0, 1:225, 3:227, :3]
    assert preprocessor(frame, out=out) is out
    np.testing.assert_array_equal(out, expected)
    outside = wide.copy()
    outside[0, 1:225, 3:227, :3] = 7
    assert (outside == 7).all()


def test_without_out_the_result_is_the_callers() -> None:
    preprocessor = Preprocessor(DEIT)
    first = preprocessor(noise(300, 400, seed=1))
    kept = first.copy()
    preprocessor(noise(300, 400, seed=2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "out",
    [np.empty((224, 223, 3), np.uint8), np.empty((1, 224, 224, 3), np.uint8), np.empty((224, 224, 3), np.float32)],
)
def test_an_unfit_out_is_refused(out: Any) -> None:
    with pytest.raises(UsageError, match=r"out is a .* array of shape"):
        Preprocessor(DEIT)(noise(300, 400), out=out)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(UsageError, match="'rgb'"):
        Preprocessor(DEIT)(noise(300, 400), order="rgb")  # type: ignore[arg-type]


def test_plans_are_kept_for_the_last_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    pillow_resize = module.pillow_resize
    monkeypatch.setattr(
        module, "pillow_resize", lambda *axes, **order: made.append(axes) or pillow_resize(*axes, **order)
    )
    preprocessor = Preprocessor(DEIT)
    frames = [noise(300 + size, 400) for size in range(KEPT_PLANS + 1)]
    expected = [preprocessor(frame) for frame in frames]
    assert len(made) == KEPT_PLANS + 1
    for frame, pixels in zip(frames[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(preprocessor(frame), pixels)
    assert len(made) == KEPT_PLANS + 1
    np.testing.assert_array_equal(preprocessor(frames[0]), expected[0])
    assert len(made) == KEPT_PLANS + 2


def test_nothing_is_allocated_per_frame() -> None:
    preprocessor, frame, out = Preprocessor(DEIT), noise(720, 1280), np.empty((224, 224, 3), np.uint8)
    preprocessor(frame, out=out)
    tracemalloc.start()
    try:
        preprocessor(frame, out=out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 1024


def test_threads_may_share_one() -> None:
    preprocessor = Preprocessor(DEIT)
    frames = [noise(300, 400 + seed % 2, seed) for seed in range(24)]
    expected = [Preprocessor(DEIT)(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for got, pixels in zip(pool.map(preprocessor, frames), expected, strict=True):
            np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize(
    ("frame", "problem", "fix"),
    [
        (None, "None", "check the camera or path"),
        ("photo.jpg", "a str", "classifier.streams"),  # also the names of a dict, given to stream
        ([[1, 2, 3]], "a list", "np.asarray"),
        (np.zeros((4, 4, 3), np.float32), "float32", "frame * 255"),
        (np.zeros((4, 4, 3), np.uint16), "uint16", "scale its values"),
        (np.zeros((4, 4, 3), bool), "bool", "scale its values"),
        (np.zeros((4, 5), np.uint8), r"\(4, 5\)", "np.stack"),
        (np.zeros((4, 5, 1), np.uint8), r"\(4, 5, 1\)", "repeat"),
        (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\)", "frame[..., :3]"),
        (np.zeros((4, 5, 2), np.uint8), r"\(4, 5, 2\)", "three channels"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)", "transpose"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"\(1, 4, 5, 3\)", "one by one"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)", "empty"),
        (np.zeros((4, 0, 3), np.uint8), r"\(4, 0, 3\)", "empty"),
        (np.zeros(7, np.uint8), r"\(7,\)", "frame.tobytes()"),
        (np.zeros(IMAGE_SIDE + 1, np.uint8), rf"\({IMAGE_SIDE + 1},\)", "frame.tobytes()"),
        (np.zeros(0, np.uint8), r"\(0,\)", "empty"),
        (np.zeros((1, IMAGE_SIDE + 1, 3), np.uint8), rf"\(1, {IMAGE_SIDE + 1}, 3\)", "crop the frame"),
        (np.zeros((IMAGE_SIDE + 1, 1, 3), np.uint8), rf"\({IMAGE_SIDE + 1}, 1, 3\)", "crop the frame"),
    ],
)
def test_unusable_frames_are_refused(frame: Any, problem: str, fix: str) -> None:
    with pytest.raises(FrameSourceError, match=problem) as caught:
        check_frame(frame)
    assert fix in caught.value.fix
    assert "HxWx3 uint8" in caught.value.expected
    with pytest.raises(FrameSourceError, match=problem):
        Preprocessor(DEIT)(frame)


@pytest.mark.parametrize(("order", "last"), [("BGRA", True), ("RGBA", True), ("BGR", False), ("RGB", False)])
def test_frames_of_either_order_can_be_repaired(order: str, last: bool) -> None:
    """RGB that is read as BGR gives an answer that looks right."""
    planes = {name: np.full((4, 5), 50 * level, np.uint8) for level, name in enumerate("BGRA")}
    frame = np.stack([planes[name] for name in order], axis=2 if last else 0)
    with pytest.raises(FrameSourceError) as caught:
        check_frame(frame)
    expression, when_rgb = caught.value.fix.split(": ", 1)[1].split("; ")
    assert when_rgb.endswith('with order="RGB"')
    repaired = eval(expression, {"frame": frame})
    bgr = np.stack([planes[name] for name in "BGR"], axis=2)
    channels: Any = order[:3]
    np.testing.assert_array_equal(Preprocessor(DEIT)(repaired, order=channels), Preprocessor(DEIT)(bgr))


def test_the_smallest_frame_is_fine() -> None:
    check_frame(np.zeros((1, 1, 3), np.uint8))
    np.testing.assert_array_equal(Preprocessor(DEIT)(np.full((1, 1, 3), 77, np.uint8)), np.full((224, 224, 3), 77))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["shortest", "squash", "border"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(1, IMAGE_SIDE, 3), (IMAGE_SIDE, 1, 3)])
def test_long_frames_take_little_memory(shape: tuple[int, int, int], interpolation: Any, mode: Any) -> None:
    frame = np.zeros(shape, np.uint8)
    tracemalloc.start()
    try:
        Preprocessor(Preprocessing((32, 32), (32, 32), mode, interpolation))(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 << 20


@pytest.mark.parametrize("shape", [(1, IMAGE_SIDE, 3), (IMAGE_SIDE, 1, 3)])
def test_frames_that_would_be_resized_to_billions_of_pixels_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(FrameSourceError, match=r"would be resized to .*67108864"):
        Preprocessor(Preprocessing((512, 512), (512, 512)))(np.zeros(shape, np.uint8))
