"""The geometry, against timm's own transforms, applied to pictures whose pixels hold their coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Geometry, Preprocessing, ResizeMode, resize_size_for
from vitedge.errors import UsageError
from vitedge.records import decode, encode
from vitedge.safety.limits import INPUT_SIDE

MEAN = (0.1, 0.2, 0.0)
MEAN_COLOUR = (26, 51, 0)
BLACK = (0, 0, 0)

sides = st.integers(1, 400)
small_sizes = st.tuples(st.integers(1, 160), st.integers(1, 160))
input_sizes = st.one_of(st.integers(1, 160).map(lambda side: (side, side)), small_sizes)


def timm_steps(input_size: tuple[int, int], crop_pct: float, mode: ResizeMode) -> tuple[Any, Any]:
    """timm's resize and crop."""
    factory = pytest.importorskip("timm.data.transforms_factory")
    crop_mode = "center" if mode == "shortest" else mode
    transform = factory.transforms_imagenet_eval(
        input_size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation="nearest", mean=MEAN
    )
    resize, crop = transform.transforms[:2]
    return resize, crop


def coordinates(height: int, width: int) -> NDArray[np.uint8]:
    """A picture of (row mod 256, column mod 256, 255)."""
    row, column = np.mgrid[:height, :width]
    return np.stack([row % 256, column % 256, np.full((height, width), 255)], axis=2).astype(np.uint8)


def window(geometry: Geometry, input_size: tuple[int, int], padding: tuple[int, int, int]) -> NDArray[np.uint8]:
    """What ``geometry`` says is cut out of ``coordinates``."""
    rows = np.arange(input_size[0]) + geometry.offset[0]
    columns = np.arange(input_size[1]) + geometry.offset[1]
    inside = ((rows >= 0) & (rows < geometry.resized[0]))[:, None] & ((columns >= 0) & (columns < geometry.resized[1]))
    blue = np.full(input_size, 255)
    picture = np.stack([*np.broadcast_arrays(rows[:, None] % 256, columns % 256), blue], axis=2)
    return np.where(inside[..., None], picture, padding).astype(np.uint8)


@settings(max_examples=300, deadline=None)
@given(
    input_size=input_sizes,
    crop_pct=st.one_of(st.sampled_from([0.875, 0.9, 0.95, 1.0, 1.14]), st.floats(0.3, 1.5)),
    mode=st.sampled_from(["shortest", "squash", "border"]),
    height=sides,
    width=sides,
)
def test_geometry_is_timms(
    input_size: tuple[int, int], crop_pct: float, mode: ResizeMode, height: int, width: int
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    resize_size = resize_size_for(input_size, crop_pct)
    assume(min(resize_size) > 0 and max(height, width) <= 40 * min(height, width))
    preprocessing = Preprocessing(input_size, resize_size, resize_mode=mode, mean=MEAN)
    resize, crop = timm_steps(input_size, crop_pct, mode)
    geometry = preprocessing.geometry(height, width)
    try:
        resized = resize(pillow.new("RGB", (width, height)))
    except ValueError:  # a side rounds to 0
        assert min(geometry.resized) == 1
        return
    assert geometry.resized == resized.size[::-1]
    cropped = np.asarray(crop(pillow.fromarray(coordinates(*geometry.resized))))
    np.testing.assert_array_equal(window(geometry, input_size, preprocessing.padding), cropped)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, Geometry((256, 455), (16, 116))),
        (1280, 720, Geometry((455, 256), (116, 16))),
        (256, 341, Geometry((256, 341), (16, 58))),
        (480, 640, Geometry((256, 341), (16, 58))),
    ],
)
def test_geometry_of_common_frames(height: int, width: int, expected: Geometry) -> None:
    assert Preprocessing((224, 224), (256, 256)).geometry(height, width) == expected


def test_a_smaller_frame_is_centred() -> None:
    preprocessing = Preprocessing((7, 10), (4, 4), resize_mode="squash")
    assert preprocessing.geometry(50, 50) == Geometry((4, 4), (-1, -3))


@pytest.mark.parametrize(
    ("resized", "half_even", "floor"),
    [(8, 0, 0), (9, 0, 0), (10, 1, 1), (11, 2, 1), (13, 2, 2), (5, -1, -2), (6, -1, -1)],
)
def test_an_odd_margin_is_rounded_as_asked(resized: int, half_even: int, floor: int) -> None:
    for rounding, offset in (("half_even", half_even), ("floor", floor)):
        preprocessing = Preprocessing((8, 8), (8, resized), resize_mode="squash", crop_rounding=rounding)  # type: ignore[arg-type]
        assert preprocessing.geometry(50, 50).offset == (0, offset)


def test_a_side_never_vanishes() -> None:
    assert Preprocessing((8, 8), (8, 8), resize_mode="border").geometry(1, 1000).resized == (1, 8)
    assert Preprocessing((8, 16), (8, 16)).geometry(1, 1000).resized == (8, 8000)


def test_padding_is_the_mean_in_border_mode_and_black_elsewhere() -> None:
    assert Preprocessing((8, 8), (8, 8), resize_mode="border", mean=MEAN).padding == MEAN_COLOUR
    assert Preprocessing((8, 8), (8, 8), resize_mode="squash", mean=MEAN).padding == BLACK
    assert Preprocessing((8, 8), (8, 8), resize_mode="shortest", mean=MEAN).padding == BLACK


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_size": (0, 8)}, r"\(0, 8\)"),
        ({"resize_size": (8, -1)}, r"\(8, -1\)"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"mean": (123.7, 116.3, 103.5)}, "mean"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean"),
        ({"mean": ("0.5", 0.5, 0.5)}, "mean"),
        ({"mean": (True, 0.5, 0.5)}, "mean"),
        ({"mean": 0.5}, "mean"),
        ({"std": (float("nan"), 1.0, 1.0)}, "std"),
        ({"std": (float("inf"), 1.0, 1.0)}, "std"),
        ({"std": (1e-300, 1.0, 1.0)}, "std"),
        ({"std": (1.0, 10**400, 1.0)}, "std"),
        ({"std": (1.0, 1.0, None)}, "std"),
        ({"std": (1.0, 1.0, 1.0, 1.0)}, "std"),
        ({"input_size": (INPUT_SIDE + 1, 8)}, f"{INPUT_SIDE + 1}, 8"),
        ({"input_size": (8, 10**400)}, "sizes"),
        ({"input_size": (8.0, 8)}, "8.0"),
        ({"input_size": (True, 8)}, "True"),
        ({"input_size": (8, 8, 8)}, "sizes"),
        ({"input_size": 8}, "sizes"),
        ({"resize_size": (8, INPUT_SIDE + 1)}, "sizes"),
        ({"resize_size": ("8", "8")}, "sizes"),
        ({"resize_size": (8, float("nan"))}, "sizes"),
        ({"resize_mode": "fit"}, "resize_mode"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"interpolation": 3}, "interpolation"),
        ({"interpolation": ["bicubic"]}, "interpolation"),
        ({"channel_order": "GBR"}, "channel_order"),
        ({"crop_rounding": None}, "crop_rounding"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Preprocessing(**{"input_size": (8, 8), "resize_size": (8, 8), **changes})


@pytest.mark.parametrize("crop_pct", [0.0, -0.0, -1.0, float("nan"), float("inf"), -float("inf"), 5e-324, 10**400])
def test_a_crop_must_be_possible(crop_pct: float) -> None:
    with pytest.raises(UsageError, match=r"crop_pct|sizes"):
        Preprocessing((8, 8), resize_size_for((8, 8), crop_pct))


@pytest.mark.parametrize("size", [(0, 8), (-8, 8), (10**400, 8), (8, INPUT_SIDE + 1), (8.5, 8)])
def test_a_crop_is_of_a_possible_size(size: Any) -> None:
    with pytest.raises(UsageError, match="sizes"):
        resize_size_for(size, 0.875)


def test_a_manifest_without_the_key_turns_nothing() -> None:
    old = {key: value for key, value in encode(Preprocessing((8, 8), (8, 8))).items() if key != "exif_orientation"}
    assert decode(Preprocessing, old, where="manifest").exif_orientation is False
    assert decode(Preprocessing, {**old, "exif_orientation": True}, where="manifest").exif_orientation is True
